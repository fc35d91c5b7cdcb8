"""Claims pending rows when slots are free, rescues rows of dead owners, ends overdue rows, and purges."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from server.actors.capacity import Backlog, Slots
from server.actors.claims import model_request_of
from server.actors.heartbeat import LEASE_TTL_S, Lease
from server.actors.quarantine import MAX_ATTEMPTS, QUARANTINE_ATTEMPTS, QuarantineRunner
from server.actors.workload import Workload
from server.model_request import InstanceId, ModelRequest, RequestId, Status, UserId, lowest_id_at
from server.pooling import remedy_for
from server.storage.database import DatabaseAway, DedicatedConnection

CLAIM_INTERVAL_S = 1.0
NEWCOMER_INTERVAL_S = 0.2
"""Between claims of spare slots for users who run nothing here, while all other slots are taken."""
RESCUE_INTERVAL_S = 2.0
RECLAIM_INTERVAL_S = 30.0
PURGE_INTERVAL_S = 600.0

_CLAIM_BATCH = 100
_SWEEP_BATCH = 500
_RECLAIM_MIN_AGE_S = 10.0
_EXPIRY_GRACE_S = 30.0
_DEAD_LEASE_KEPT_S = 3600.0
_BEFORE_ALL_USERS = UUID(int=0)

log = structlog.get_logger(__name__)


class Sweeper:
    """Starts all requests on this instance except those that admission starts at once."""

    def __init__(
        self,
        connection: DedicatedConnection,
        *,
        queue: "asyncio.Queue[ModelRequest]",
        lease: Lease,
        slots: Slots,
        backlog: Backlog,
        workload: Workload,
        retention_days: int = 0,
        upstream_outage: Callable[[], str | None] = lambda: None,
        on_change: Callable[[RequestId], None] = lambda _: None,
    ) -> None:
        self._connection = connection
        self._queue = queue
        self._lease = lease
        self._slots = slots
        self._backlog = backlog
        self._workload = workload
        self._retention_days = retention_days
        self._upstream_outage = upstream_outage
        self._on_change = on_change
        self._known_dead: list[InstanceId] = []
        self._news = asyncio.Event()
        self._due: dict[str, float] = {}
        self._last_user = _BEFORE_ALL_USERS
        self.is_stopped = False
        self.is_away = False
        """Whether the last query of the backlog got no answer: waiting requests do not start here."""
        self._quarantine = QuarantineRunner(connection, queue=queue, lease=lease, slots=slots, workload=workload)
        slots.watch(self._slot_came_free)
        backlog.watch(self.wake)

    def add_dead_instance(self, instance_id: InstanceId) -> None:
        """Rescue the rows of this dead instance without waiting for its lease to run out."""
        self._known_dead.append(instance_id)

    def wake(self) -> None:
        """Start the next tick at once."""
        self._news.set()

    async def run(self) -> None:
        while True:
            try:
                await self.tick()
            except DatabaseAway as error:
                if not self.is_away:
                    log.warning("sweep_skipped", reason=str(error), fix=remedy_for(error))
                self.is_away = True
                self._backlog.is_empty = False
            else:
                self.is_away = False
            try:
                async with asyncio.timeout(CLAIM_INTERVAL_S * random.uniform(0.8, 1.2)):  # noqa: S311
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()

    async def tick(self) -> None:
        """Do everything that is due."""
        if self._is_due("rescue", RESCUE_INTERVAL_S):
            await self.rescue()
            await self.expire()
        await self.claim()
        if self._is_due("reclaim", RECLAIM_INTERVAL_S):
            await self.reclaim()
        if self._is_due("purge", PURGE_INTERVAL_S):
            await self.purge()

    async def claim(self) -> None:
        """Fill the free slots from the backlog, fairly between users; or with a quarantined group alone."""
        if self.is_stopped or not self._lease.is_trusted or await self._quarantine.go_on():
            return
        mark = self._backlog.mark()
        [survey] = await self._connection.fetch("survey_backlog")
        if survey["has_quarantined"] and await self._quarantine.begin(others_wait=survey["has_due"]):
            self._backlog.is_empty = False
            return
        if not survey["has_due"]:
            self._backlog.found_empty(mark)
            return
        self._backlog.is_empty = False
        while not self.is_stopped and (reserved := self._slots.reserve(_CLAIM_BATCH)):
            mark = self._backlog.mark()
            rows = await self._claim_pending(reserved, after=self._last_user)
            if not rows and self._last_user == _BEFORE_ALL_USERS:
                self._backlog.found_empty(mark)
                return
            self._last_user = max((row["user_id"] for row in rows), default=_BEFORE_ALL_USERS)
        if not self.is_stopped and self._is_due("newcomers", NEWCOMER_INTERVAL_S):
            reserved = self._slots.reserve(_CLAIM_BATCH, also_spare=True)
            if reserved:
                await self._claim_pending(reserved, left_out=list(self._workload.held))

    async def _claim_pending(
        self, reserved: int, *, after: UUID = _BEFORE_ALL_USERS, left_out: Sequence[UserId] = ()
    ) -> list[asyncpg.Record]:
        return await self._fill(
            reserved,
            "claim_pending",
            self._lease.instance_id,
            reserved,
            after,
            QUARANTINE_ATTEMPTS,
            self._workload.large_room,
            left_out,
        )

    async def _fill(self, reserved: int, query: str, *args: Any) -> list[asyncpg.Record]:
        """Run a claiming statement for reserved slots, and release the slots that stay empty. Returns the rows."""
        enqueued = 0
        try:
            rows = await self._connection.fetch(query, *args)
            for row in rows:
                if row["status"] == Status.PROCESSING:
                    self._enqueue(model_request_of(row))
                    enqueued += 1
            return rows
        finally:
            self._slots.release(reserved - enqueued)

    def release_waiting(self) -> None:
        """Give a waiting quarantined group to the generators. While the server stops they hand it back."""
        self._quarantine.release_waiting()

    async def rescue(self) -> None:
        """Put rows of dead owners back to the backlog. Rows that were running at too many crashes fail."""
        rows = await self._connection.fetch(
            "rescue_orphans",
            self._known_dead,
            self._lease.may_judge_others,
            LEASE_TTL_S,
            MAX_ATTEMPTS,
            QUARANTINE_ATTEMPTS,
            _SWEEP_BATCH,
        )
        for row in rows:
            log.warning("request_rescued", id=str(row["id"]), status=row["status"], attempt=row["attempt"])
            self._on_change(row["id"])
        if rows:
            self._backlog.hint()
        if len(rows) < _SWEEP_BATCH:
            self._known_dead.clear()

    async def expire(self) -> None:
        """End rows that passed their deadline, and pending rows that were cancelled."""
        expired = await self._connection.fetch(
            "expire_requests", _EXPIRY_GRACE_S, self._upstream_outage(), _SWEEP_BATCH
        )
        for row in expired:
            log.info("request_expired", id=str(row["id"]))
            self._on_change(row["id"])
        for row in await self._connection.fetch("finalise_cancelled", _SWEEP_BATCH):
            log.info("request_cancelled", id=str(row["id"]))
            self._on_change(row["id"])

    async def reclaim(self) -> None:
        """Run rows that this instance owns and its memory does not hold: the reply to an accept or a claim was lost."""
        if self.is_stopped or not (reserved := self._slots.reserve(_CLAIM_BATCH, also_spare=True)):
            return
        held = [request_id for request_id, _ in self._workload.claims()]
        rows = await self._fill(
            reserved, "reclaim_own", self._lease.instance_id, held, _RECLAIM_MIN_AGE_S, QUARANTINE_ATTEMPTS, reserved
        )
        for row in rows:
            log.warning("request_reclaimed", id=str(row["id"]))

    async def purge(self) -> None:
        """Delete old keys, dead instances and, with a retention time, old final rows; a small batch at a time."""
        await self._connection.fetch("purge_instances", _DEAD_LEASE_KEPT_S)
        await self._connection.fetch("purge_transcripts")
        await self._connection.fetch("purge_revocations")
        purged = await self._connection.fetch("purge_idempotency_keys", _SWEEP_BATCH)
        has_more = len(purged) == _SWEEP_BATCH
        if self._retention_days:
            oldest = lowest_id_at(datetime.now(UTC) - timedelta(days=self._retention_days))
            purged = await self._connection.fetch("purge_requests", oldest, _SWEEP_BATCH)
            has_more = has_more or len(purged) == _SWEEP_BATCH
        if has_more:
            self._due["purge"] = 0.0  # at the next tick, after its claims

    def _enqueue(self, model_request: ModelRequest) -> None:
        self._workload.add(model_request)
        self._queue.put_nowait(model_request)
        log.info("request_claimed", id=str(model_request.id), attempt=model_request.attempt, epoch=model_request.epoch)

    def _slot_came_free(self) -> None:
        if not self._backlog.is_empty:
            self.wake()

    def _is_due(self, name: str, interval_s: float) -> bool:
        now = time.monotonic()
        if now < self._due.get(name, 0.0):
            return False
        self._due[name] = now + interval_s
        return True
