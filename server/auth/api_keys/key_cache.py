"""Which API keys are valid: a cache in front of the database, so that the check of a known key sends no query.

One actor sends all statements: it looks new keys up, many at once, reads those in use again every `REFRESH_INTERVAL_S`,
and records when keys were used. So a flood of invented keys costs one statement at a time, however many come.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from server.auth.api_keys.key_format import digest_of, has_checksum, has_key_form
from server.auth.principal import ApiKey, Principal, Scope
from server.errors import Unauthenticated, Unavailable
from server.limits.rates import RateLimiter
from server.model_request import UserId
from server.storage.database import DatabaseAway, DedicatedConnection

MAX_AGE_S = 5.0
"""A key is accepted this long after it was last found valid: so long may a revoked key work at another instance."""
REFRESH_INTERVAL_S = 2.0
ACTIVE_S = 120.0
"""A key leaves the cache when it was not used for this long. Its last use has been recorded by then."""
RECORD_INTERVAL_S = 60.0
"""The time of use of a key is written at most once in this time."""
UNKNOWN_S = 30.0
"""A key that does not exist is refused without a query for this long."""
MAX_KNOWN = 10_000
MAX_UNKNOWN = 10_000
MAX_WAITING = 1_000
"""Keys that wait to be looked up."""
LOOKUP_TIMEOUT_S = 5.0
_BATCH = 1_000
_PAUSE_S = 0.2

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Known:
    """A key that was valid when the statement of `checked_at` was sent. All times are of the monotonic clock."""

    principal: Principal
    key: ApiKey
    checked_at: float
    ends_at: float
    used_at: float
    recorded_at: float = float("-inf")


class KeyCache:
    """Answers from memory where it can. `run` is its actor."""

    def __init__(self, connection: DedicatedConnection, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._connection = connection
        self._clock = clock
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._asked: dict[bytes, asyncio.Future[Principal | None]] = {}
        self._watchers: dict[bytes, list[Callable[[], None]]] = {}
        self._rechecked: OrderedDict[UUID, float] = OrderedDict()
        self._refreshed_at = float("-inf")
        self._news = asyncio.Event()

    def find(self, key: str) -> Principal | None:
        """The user of a known key; None where the database has to be asked.

        Raises `Unauthenticated` for a text that is no key, and for one that was unknown a moment ago.
        """
        if not has_key_form(key):
            raise Unauthenticated
        now, digest = self._clock(), digest_of(key)
        known = self._known.get(digest)
        if known is not None and now < min(known.checked_at + MAX_AGE_S, known.ends_at):
            known.used_at = now
            return known.principal
        if not has_checksum(key) or now < self._unknown.get(digest, now):
            raise Unauthenticated
        return None

    async def look_up(self, key: str) -> Principal:
        """Ask the database for a key that `find` has returned None for.

        Raises `Unauthenticated` for an unknown key, `Unavailable` while the database does not answer or too many wait.
        """
        digest = digest_of(key)
        answer = self._asked.get(digest)
        if answer is None:
            if len(self._asked) >= MAX_WAITING:
                raise Unavailable("Too many API keys are being checked; try again.", retry_after_s=2)
            answer = self._asked[digest] = asyncio.get_running_loop().create_future()
            self._news.set()
        await asyncio.wait({answer}, timeout=LOOKUP_TIMEOUT_S)
        if not answer.done() or answer.cancelled():
            raise Unavailable("API keys cannot be checked at the moment; try again.", retry_after_s=2)
        principal = answer.result()
        if principal is None:
            raise Unauthenticated
        return principal

    @contextlib.contextmanager
    def watch(self, key: ApiKey, on_end: Callable[[], None]) -> Iterator[None]:
        """During the block, call `on_end` when the key is revoked or expires. It may be called more than once."""
        watchers = self._watchers.setdefault(key.digest, [])
        watchers.append(on_end)
        try:
            yield
        finally:
            watchers.remove(on_end)
            if not watchers:
                del self._watchers[key.digest]

    def recheck(self, subject: UUID) -> None:
        """Ask the database again for a key, or for all keys of a user, before they are accepted once more."""
        self._rechecked[subject] = self._clock()
        _limit(self._rechecked, MAX_KNOWN)
        for known in self._known.values():
            if subject in {known.key.id, known.principal.user_id}:
                known.checked_at = float("-inf")
        self._refreshed_at = float("-inf")
        self._news.set()

    async def run(self) -> None:
        while True:
            if not self._asked:
                await self._wait()
            self._news.clear()
            try:
                await self.work()
            except (DatabaseAway, asyncpg.PostgresError) as error:
                self._give_up(error)
                await asyncio.sleep(_PAUSE_S)

    async def _wait(self) -> None:
        """Until a key is asked for, or the next refresh is due."""
        delay_s = self._refreshed_at + REFRESH_INTERVAL_S - self._clock()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, delay_s)):
                await self._news.wait()

    async def work(self) -> None:
        """One round: a batch of the keys that are waited for, then those that are due."""
        if self._asked:
            await self._ask(list(islice(self._asked, _BATCH)))
        if self._clock() >= self._refreshed_at + REFRESH_INTERVAL_S:
            self._refreshed_at = self._clock()
            self._forget_unused()
            due = list({*self._known, *self._watchers})
            for start in range(0, len(due), _BATCH):
                await self._ask(due[start : start + _BATCH])
            await self._record_uses()

    async def _ask(self, digests: Sequence[bytes]) -> None:
        """Read these keys. If a recheck was requested meanwhile, the answer may be older than the revocation."""
        sent_at = self._clock()
        rows = {row["hash"]: row for row in await self._connection.fetch("find_api_keys", digests)}
        for digest in digests:
            row = rows.get(digest)
            if row is None:
                self._end(digest)
            elif all(self._rechecked.get(subject, -1.0) < sent_at for subject in (row["id"], row["user_id"])):
                self._keep(row, sent_at)

    def _keep(self, row: Any, sent_at: float) -> None:
        """Note that a key is valid. One that is known stays as it is, with what is left of its rate."""
        digest = row["hash"]
        known = self._known.get(digest)
        if known is None:
            key = _key_of(row)
            principal = Principal(UserId(row["user_id"]), key=key)
            known = self._known[digest] = _Known(principal, key, sent_at, float("inf"), used_at=sent_at)
            _limit(self._known, MAX_KNOWN)
        known.checked_at = sent_at
        if row["expires_in_s"] is not None:
            known.ends_at = sent_at + row["expires_in_s"]
        if (answer := self._asked.pop(digest, None)) is not None:
            known.used_at = sent_at
            answer.set_result(known.principal)

    def _end(self, digest: bytes) -> None:
        """Note that there is no such key, or no more."""
        self._known.pop(digest, None)
        self._unknown[digest] = self._clock() + UNKNOWN_S
        self._unknown.move_to_end(digest)
        _limit(self._unknown, MAX_UNKNOWN)
        for on_end in self._watchers.get(digest, ()):
            on_end()
        if (answer := self._asked.pop(digest, None)) is not None:
            answer.set_result(None)

    def _give_up(self, error: Exception) -> None:
        """Tell those who wait that there is no answer."""
        if isinstance(error, DatabaseAway):
            log.debug("keys_not_checked", reason=str(error))
        else:
            log.error("keys_not_checked", exc_info=error)
        asked, self._asked = self._asked, {}
        for answer in asked.values():
            answer.cancel()

    def _forget_unused(self) -> None:
        limit = self._clock() - ACTIVE_S
        for digest in [digest for digest, known in self._known.items() if known.used_at < limit]:
            del self._known[digest]

    async def _record_uses(self) -> None:
        now = self._clock()
        used = [known for known in self._known.values() if _is_unrecorded(known, now)]
        for start in range(0, len(used), _BATCH):
            batch = used[start : start + _BATCH]
            for known in batch:
                known.recorded_at = now
            ids, ages = [known.key.id for known in batch], [now - known.used_at for known in batch]
            await self._connection.fetch("record_key_uses", ids, ages, RECORD_INTERVAL_S)


def _is_unrecorded(known: _Known, now: float) -> bool:
    return known.used_at > known.recorded_at and now >= known.recorded_at + RECORD_INTERVAL_S


def _key_of(row: Any) -> ApiKey:
    """Scopes that a later version stored are left out."""
    per_minute = row["requests_per_minute"]
    return ApiKey(
        id=row["id"],
        digest=row["hash"],
        scopes=frozenset(scope for scope in Scope if scope in row["scopes"]),
        expires_at=row["expires_at"],
        rates=None if per_minute is None else RateLimiter("key", per_minute),
    )


def _limit(table: "OrderedDict[Any, Any]", size: int) -> None:
    """Evict the oldest entries beyond `size`."""
    while len(table) > size:
        table.popitem(last=False)
