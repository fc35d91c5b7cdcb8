"""Admits model requests: reserves a slot or a place in the backlog, stores the row, and fills the queue."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg
import orjson
import structlog

from server.actors.capacity import Backlog, Slots
from server.actors.feeds import Feeds
from server.actors.heartbeat import Lease
from server.actors.journal import Journal
from server.actors.subscription import View
from server.actors.workload import Workload, large_bytes
from server.actors.writes import Accepted, NewRequest, Replayed
from server.errors import KeyReused, RateLimited, Unauthenticated, Unavailable
from server.lifecycle import Lifecycle
from server.model_request import InstanceId, ModelRequest, RequestId, Status, UserId
from server.schemas import render_pending, render_running
from server.storage.reader import PooledQueries
from server.telemetry.trace_context import TRACEPARENT

_BACKLOG_RETRY_S = 15.0
_SHUTDOWN_RETRY_S = 5.0
_FULL_FOR_S = 0.2
"""Time for which a full backlog is not counted again, so that refusals are cheap under load."""
_MAX_REFUSED_USERS = 1000
PUT_OFF_SHARE = 10
"""Put-off requests may be a tenth of the backlog. Until they are due they only use the database."""

NO_DIGESTS: Mapping[str, str] = {}

log = structlog.get_logger(__name__)


def fingerprint_of(body: Any, digests: Mapping[str, str] = NO_DIGESTS) -> bytes:
    """The same for every spelling of the same JSON body.

    `digests` has a text for each reference to a file that was in the body, in whose place it is hashed.
    """
    text = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    for reference, digest in digests.items():
        text = text.replace(reference.encode(), digest.encode())
    return hashlib.sha256(text).digest()


@dataclass(slots=True)
class Admitted:
    """A stored request. `view` is its state from memory; None for the earlier request of an idempotency key."""

    request_id: RequestId
    view: View | None

    @property
    def is_replayed(self) -> bool:
        return self.view is None


class Admission:
    """Admits requests. If a slot is free and no request waits, one INSERT stores the row as running here."""

    def __init__(
        self,
        *,
        journal: Journal,
        reader: PooledQueries,
        queue: "asyncio.Queue[ModelRequest]",
        slots: Slots,
        backlog: Backlog,
        workload: Workload,
        feeds: Feeds,
        lease: Lease,
        lifecycle: Lifecycle,
        max_backlog: int,
        max_backlog_per_user: int,
        on_waiting: Callable[[], None] = lambda: None,
    ) -> None:
        self._journal = journal
        self._reader = reader
        self._queue = queue
        self._slots = slots
        self._backlog = backlog
        self._workload = workload
        self._feeds = feeds
        self._lease = lease
        self._lifecycle = lifecycle
        self._max_backlog = max_backlog
        self._max_backlog_per_user = max_backlog_per_user
        self._on_waiting = on_waiting
        self._full_until = 0.0
        self._share = 0
        """Requests that one user may hold while the backlog is full."""
        self._refused_until: dict[UserId, float] = {}

    def require_chance(self, user_id: UserId) -> None:
        """Raise `Unavailable` if a create of this user would be refused. To call before its body is read."""
        if not self._lifecycle.accepts_work:
            raise Unavailable(f"Not accepting requests: {self._lifecycle.reason}.", retry_after_s=_SHUTDOWN_RETRY_S)
        if time.monotonic() < self._refused_until.get(user_id, 0.0) and not (
            self._backlog.is_empty and self._slots.free
        ):
            raise _backlog_full()

    async def find_earlier(self, user_id: UserId, key: str, fingerprint: bytes) -> Admitted | None:
        """The earlier request of this key, so that a retry is answered independently of the limits.

        Raises `KeyReused` when the body was another one.
        """
        row = await self._reader.fetch_row("find_idempotency_key", user_id, key)
        return None if row is None else _replay(Replayed(row["request_id"], row["fingerprint"] == fingerprint))

    async def admit(self, draft: NewRequest, *, delay_s: float = 0.0) -> Admitted:
        """Store the request and get it started, or waiting.

        Raises `Unavailable` (stopping, overloaded, database away), `RateLimited` (the user's backlog is full),
        `KeyReused`, and `Unauthenticated` when the account is gone.
        """
        self.require_chance(draft.user_id)
        has_memory = not (large := large_bytes(draft)) or large <= self._workload.large_room
        is_first = delay_s <= 0 and self._lease.is_trusted and self._backlog.is_empty and has_memory
        is_newcomer = not self._workload.held[draft.user_id]
        starts_now = is_first and self._slots.reserve(also_spare=is_newcomer) == 1
        return await (self._start(draft) if starts_now else self._store_pending(draft, delay_s))

    async def _start(self, draft: NewRequest) -> Admitted:
        owner = self._lease.instance_id
        handed_over = False
        self._workload.take(draft)
        try:
            sent_at = time.monotonic()
            draft.owner = owner
            accepted = await self._accept(draft)
            if isinstance(accepted, Replayed):
                return _replay(accepted)
            model_request = _run_of(draft, owner, accepted, sent_at)
            self._workload.add(model_request)
            self._queue.put_nowait(model_request)
            handed_over = True
            body = None if large_bytes(draft) else render_running(model_request)
            return Admitted(draft.id, View(Status.PROCESSING, model_request.epoch, body))
        finally:
            self._workload.give_back(draft)  # counted as a run by now, or given up
            if not handed_over:
                self._slots.release()

    async def _store_pending(self, draft: NewRequest, delay_s: float) -> Admitted:
        """Store the request in the backlog.

        The database counts the limits over all instances. Concurrent creates may exceed them.
        """
        ahead = await (self._find_place(draft.user_id) if delay_s <= 0 else self._find_later_place(draft.user_id))
        draft.delay_s = max(0.0, delay_s)
        accepted = await self._accept(draft)
        if isinstance(accepted, Replayed):
            return _replay(accepted)
        if delay_s <= 0:
            self._backlog.hint()
            self._on_waiting()
        body = None
        if not large_bytes(draft):  # whoever waits for a large one reads it again
            body = render_pending(
                draft, created_at=accepted.created_at, deadline_at=accepted.deadline_at, queue_position=ahead
            )
        view = View(Status.PENDING, 0, body)
        self._feeds.notify(draft.user_id, draft.id, view)
        return Admitted(draft.id, view)

    async def _find_place(self, user_id: UserId) -> int:
        """Return how many requests wait. A full backlog admits only users who hold less than an even share of it."""
        is_known_full = time.monotonic() < self._full_until
        [waiting] = await self._reader.fetch(
            "count_waiting", user_id, 0 if is_known_full else self._max_backlog, self._max_backlog_per_user
        )
        own = int(waiting["own"])
        if own >= self._max_backlog_per_user:
            raise RateLimited(
                f"{own} of your requests are waiting already; let some of them finish.", retry_after_s=_BACKLOG_RETRY_S
            )
        if not is_known_full:
            if waiting["everyone"] < self._max_backlog:
                return int(waiting["everyone"])
            [counted] = await self._reader.fetch("count_waiting_users")
            self._share = _even_share(self._max_backlog, counted["users"])
            self._full_until = time.monotonic() + _FULL_FOR_S
        if own >= self._share:
            self._note_refusal(user_id)
            raise _backlog_full()
        return self._max_backlog

    async def _find_later_place(self, user_id: UserId) -> int:
        """Return the same for a request that is put off. Such requests have their own, smaller limit."""
        [put_off] = await self._reader.fetch("count_put_off", user_id, self._max_backlog)
        limit = max(1, self._max_backlog_per_user // PUT_OFF_SHARE)
        if put_off["everyone"] >= self._max_backlog // PUT_OFF_SHARE:
            limit = min(limit, _even_share(self._max_backlog // PUT_OFF_SHARE, put_off["users"]))
        if put_off["own"] >= limit:
            raise RateLimited(
                f"Too many requests: {put_off['own']} of yours are beyond your rate and wait for their time already.",
                retry_after_s=_BACKLOG_RETRY_S,
            )
        return int(put_off["ahead"])

    def _note_refusal(self, user_id: UserId) -> None:
        now = time.monotonic()
        if len(self._refused_until) >= _MAX_REFUSED_USERS:
            self._refused_until = {user: until for user, until in self._refused_until.items() if until > now}
        self._refused_until[user_id] = now + _FULL_FOR_S

    async def _accept(self, row: NewRequest) -> Accepted | Replayed:
        try:
            accepted = await self._journal.accept(row)
        except asyncpg.ForeignKeyViolationError:
            raise Unauthenticated from None  # the account was deleted while its token lived on
        if isinstance(accepted, Accepted):
            status = Status.PROCESSING if row.owner else Status.PENDING
            log.debug("request_accepted", id=row.id, user=row.user_id, status=status)
        return accepted


def _backlog_full() -> Unavailable:
    return Unavailable("The backlog is full; nothing was accepted.", retry_after_s=_BACKLOG_RETRY_S)


def _even_share(places: int, users: int) -> int:
    """Requests that each user may hold: at least one, so a user who holds none is always admitted."""
    return max(1, places // max(1, users))


def _replay(replayed: Replayed) -> Admitted:
    if not replayed.is_same_body:
        raise KeyReused("This Idempotency-Key was used with another body; use a new key for a new request.")
    return Admitted(replayed.request_id, None)


def _run_of(draft: NewRequest, owner: InstanceId, accepted: Accepted, sent_at: float) -> ModelRequest:
    return ModelRequest(
        id=draft.id,
        user_id=draft.user_id,
        model_type=draft.model_type,
        model=draft.model,
        input_data=draft.input_data,
        parameters=draft.parameters,
        owner=owner,
        epoch=1,
        attempt=1,
        created_at=accepted.created_at,
        deadline_at=accepted.deadline_at,
        deadline_left_s=draft.deadline_s,
        claimed_at=sent_at,
        traceparent=TRACEPARENT.get(),
    )
