"""Group commit: accepted requests and the outcomes of running ones reach Postgres in batches, without a timer.

While one flush is in flight the next batch collects; an idle journal writes at once. A write whose reply did not arrive
is sent again with the same ids, so every statement here is safe to repeat.

The connection is open before this instance is ready, and is opened again as soon as it is lost: `is_ready` follows the
last write, be it of a row or of the check that a journal without work makes.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields
from enum import Enum, auto
from typing import Any

import asyncpg
import structlog

from server.actors.heartbeat import Lease
from server.actors.write_queue import PendingWrite, WriteQueue
from server.actors.writes import Accepted, NewRequest, ReleasedRow, Replayed, WriteResult, WriteStatus
from server.errors import Unavailable
from server.model_request import FinalRow, RequestId, UserId
from server.pooling import remedy_for
from server.storage.database import DatabaseAway, DedicatedConnection
from server.storage.faults import Fault, classify

MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Accepts in memory while the database is slow; beyond that newcomers are told to come back."""
ACCEPT_TIMEOUT_S = 10.0
PATIENCE_S = 2.0
"""A restart of the database is waited for; once it is away for longer, newcomers are told so at once."""
RETRY_PARKED_S = 5.0
CHECK_INTERVAL_S = 30.0
"""A journal without work writes this often, so that a way to the database that is silently gone is noticed."""
_CONTENTION_TRIES = 20
_CONTENTION_PAUSE_S = 0.01
_BACKOFF_BASE_S = 0.05
_BACKOFF_CAP_S = 1.0

_ACCEPTED, _RECORDED, _RELEASED = (
    tuple(field.name for field in fields(row)) for row in (NewRequest, FinalRow, ReleasedRow)
)
"""The arrays that the three statements take, in their order."""

log = structlog.get_logger(__name__)

Write = Callable[[Sequence[Any]], Awaitable[None]]


class _Next(Enum):
    REPEAT = auto()
    HALVE = auto()
    SET_ASIDE = auto()
    """A fault of the database that a person can mend while the row waits."""
    GIVE_UP = auto()


class Journal:
    """The only writer of accepts, outcomes and releases of this instance."""

    def __init__(self, connection: DedicatedConnection, *, lease: Lease) -> None:
        self._connection = connection
        self._lease = lease
        self._finals = WriteQueue[FinalRow, WriteResult](is_patient=True)
        self._releases = WriteQueue[ReleasedRow, WriteResult](is_patient=True)
        self._accepts = WriteQueue[NewRequest, Accepted | Replayed](is_patient=False)
        self._work = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._away_since: float | None = None
        self._failed_checks = 0
        self.is_ready = False
        """Whether the last write succeeded, on a connection that still stands."""
        connection.watch(self._connection_lost)

    async def check(self) -> None:
        """Write something that changes nothing, as rows are written. Raises `DatabaseAway` and asyncpg's errors."""
        await self._connection.fetch("check_writes", self._lease.instance_id)
        self._note_back()

    def _connection_lost(self) -> None:
        self.is_ready = False
        self._work.set()

    async def accept(self, row: NewRequest) -> Accepted | Replayed:
        """Insert a row; returns once it is committed.

        Raises `Unavailable` when the database does not take it in time (it is dropped from the journal; should it have
        been committed with its reply lost, it is found and run). Raises asyncpg's error when the row itself is refused.
        """
        if self._accepts.size > MAX_WAITING_BYTES:
            raise Unavailable("The server is overloaded; nothing was accepted.", retry_after_s=2)
        if self._away_since is not None and time.monotonic() - self._away_since > PATIENCE_S:
            raise Unavailable("The database is not available; try again.", retry_after_s=2)
        entry = self._accepts.add(row)
        self._wake()
        timer = asyncio.get_running_loop().call_later(ACCEPT_TIMEOUT_S, _give_up, entry)
        try:
            return await entry.reply
        finally:
            timer.cancel()

    async def record(self, row: FinalRow) -> WriteResult:
        """Write a final state; waits as long as it takes. Raises asyncpg's error when the row itself is refused."""
        entry = self._finals.add(row)
        self._wake()
        return await entry.reply

    async def release(self, row: ReleasedRow) -> WriteResult:
        """Give a row back to the backlog; waits as long as it takes."""
        entry = self._releases.add(row)
        self._wake()
        return await entry.reply

    async def wait_flushed(self) -> None:
        """Return once nothing is left to write."""
        await self._settled.wait()

    async def run(self) -> None:
        try:
            while True:
                while self._finals or self._releases or self._accepts:
                    await self._flush()
                await self._rest()
        finally:
            self._connection.terminate()

    async def _rest(self) -> None:
        """Wait for more to write, or for the time to try again what was set aside, or to check the connection."""
        self._work.clear()
        lanes: tuple[WriteQueue[Any, Any], ...] = (self._finals, self._releases)
        has_parked = any(lane.has_parked for lane in lanes)
        if not has_parked:
            self._settled.set()
        pause_s = RETRY_PARKED_S if has_parked else CHECK_INTERVAL_S
        if not self.is_ready:
            pause_s = min(pause_s, _backoff_s(self._failed_checks) if self._failed_checks else 0.0)
        try:
            async with asyncio.timeout(pause_s):
                await self._work.wait()
        except TimeoutError:
            await self._check_idle()
        for lane in lanes:
            lane.unpark()

    async def _check_idle(self) -> None:
        """Check the database while there is no row to write, so that readiness stays true to it."""
        try:
            await self.check()
        except (DatabaseAway, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            self._failed_checks += 1
            self._note_away(error, len(self._accepts))

    def _wake(self) -> None:
        self._settled.clear()
        self._work.set()

    async def _flush(self) -> None:
        """One round: what ends first (it frees slots), then what begins."""
        await self._write_batch(self._finals, self._write_finals)
        await self._write_batch(self._releases, self._write_releases)
        await self._write_batch(self._accepts, self._write_accepts)

    async def _write_batch(self, lane: WriteQueue[Any, Any], write: Write) -> None:
        batch = lane.take_batch()
        try:
            await self._persist(batch, lane, write)
        except BaseException:
            lane.put_back(batch)  # stopped in the middle: a successor of this run writes it
            self._wake()
            raise

    async def _persist(self, entries: Sequence[Any], lane: WriteQueue[Any, Any], write: Write) -> None:
        """Write a batch until it is written. What is in doubt is sent again; what is refused is isolated by halving."""
        tries = 0
        while entries := lane.wanted(entries):
            try:
                await write(sorted(entries, key=lambda entry: (entry.row.id, entry.row.epoch)))
            except (DatabaseAway, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                tries += 1
                match self._judge(error, tries, len(entries), lane):
                    case _Next.REPEAT:
                        await asyncio.sleep(_pause_s(error, tries))
                    case _Next.HALVE:
                        middle = len(entries) // 2
                        await self._persist(entries[:middle], lane, write)
                        await self._persist(entries[middle:], lane, write)
                        return
                    case _Next.SET_ASIDE:
                        lane.park(entries[0])
                        return
                    case _Next.GIVE_UP:
                        entries[0].reject(error)
                        return
            else:
                self._note_back()
                return

    def _judge(self, error: Exception, tries: int, count: int, lane: WriteQueue[Any, Any]) -> "_Next":
        """What to do about a failed write. An outcome is only ever given up for what it holds."""
        if isinstance(error, DatabaseAway):
            self._note_away(error, count)
            return _Next.HALVE if error.is_slow and count > 1 else _Next.REPEAT  # too much for a slow line, perhaps
        fault = classify(error)
        if fault is Fault.BROKEN:
            self.is_ready = False  # until a write has succeeded again
        if fault is Fault.CONTENTION and (lane.is_patient or tries < _CONTENTION_TRIES):
            if tries >= _CONTENTION_TRIES:
                self._note_away(error, count)
            return _Next.REPEAT
        if count > 1:
            return _Next.HALVE
        if fault is not Fault.REJECTED:
            log.error("journal_write_failed", exc_info=error)
        return _Next.SET_ASIDE if lane.is_patient and fault is Fault.BROKEN else _Next.GIVE_UP

    async def _write_accepts(self, entries: Sequence[PendingWrite[NewRequest, Accepted | Replayed]]) -> None:
        rows = [entry.row for entry in entries]
        inserted = await self._connection.fetch(
            "accept_requests",
            *_columns(_first_of_each_key(rows), *_ACCEPTED),
        )
        replies: dict[RequestId, Accepted | Replayed] = {
            record["id"]: Accepted(record["created_at"], record["deadline_at"]) for record in inserted
        }
        if missing := [row for row in rows if row.id not in replies]:
            replies |= await self._read_back(missing)
        for entry in entries:
            if entry.row.id in replies:
                entry.resolve(replies[entry.row.id])
            else:
                entry.reject(Unavailable("The request was not stored; try again.", retry_after_s=1))

    async def _read_back(self, rows: Sequence[NewRequest]) -> dict[RequestId, Accepted | Replayed]:
        found = await self._connection.fetch("read_back_accepts", *_columns(rows, "id", "user_id", "key"))
        fingerprints = {row.id: row.fingerprint for row in rows}
        replies: dict[RequestId, Accepted | Replayed] = {}
        for record in found:
            row_id = record["id"]
            if record["request_id"] != row_id:
                replies[row_id] = Replayed(record["request_id"], record["fingerprint"] == fingerprints[row_id])
            elif record["created_at"] is not None:
                replies[row_id] = Accepted(record["created_at"], record["deadline_at"])
        return replies

    async def _write_finals(self, entries: Sequence[PendingWrite[FinalRow, WriteResult]]) -> None:
        await self._write_fenced(entries, "record_outcomes", _RECORDED)

    async def _write_releases(self, entries: Sequence[PendingWrite[ReleasedRow, WriteResult]]) -> None:
        await self._write_fenced(entries, "release_requests", _RELEASED)

    async def _write_fenced(
        self, entries: Sequence[PendingWrite[Any, WriteResult]], query: str, columns: Sequence[str]
    ) -> None:
        rows = [entry.row for entry in entries]
        written = await self._connection.fetch(query, *_columns(rows, *columns))
        # By id and epoch: a row that was claimed again may stand here twice, and only one of them counts.
        replies = {
            (record["id"], record["epoch"]): WriteResult(WriteStatus.WRITTEN, record["completed_at"])
            for record in written
        }
        if unmatched := [row for row in rows if (row.id, row.epoch) not in replies]:
            for record in await self._connection.fetch(
                "classify_outcomes", *_columns(unmatched, "id", "owner", "epoch")
            ):
                reply = WriteResult(WriteStatus(record["status"]), record["completed_at"])
                replies[record["id"], record["epoch"]] = reply
        for entry in entries:
            entry.resolve(replies[entry.row.id, entry.row.epoch])

    def _note_away(self, error: Exception, waiting: int) -> None:
        self.is_ready = False
        if self._away_since is None:
            self._away_since = time.monotonic()
            reason = f"{type(error).__name__}: {error}"
            log.warning("database_away", reason=reason, fix=remedy_for(error), waiting=waiting)

    def _note_back(self) -> None:
        self.is_ready = True
        self._failed_checks = 0
        if self._away_since is not None:
            log.info("database_back", seconds=round(time.monotonic() - self._away_since, 1))
        self._away_since = None


def _give_up(entry: PendingWrite[Any, Any]) -> None:
    entry.reject(Unavailable("The database does not answer; try again.", retry_after_s=2))


def _pause_s(error: Exception, tries: int) -> float:
    if not isinstance(error, DatabaseAway) and tries < _CONTENTION_TRIES:
        return _CONTENTION_PAUSE_S
    return _backoff_s(tries)


def _backoff_s(tries: int) -> float:
    cap_s = min(_BACKOFF_CAP_S, _BACKOFF_BASE_S * float(2 ** min(tries, 10)))
    return random.uniform(0.5, 1) * cap_s  # noqa: S311


def _columns(rows: Sequence[Any], *names: str) -> list[list[Any]]:
    """The rows turned into one array for each column, as unnest() wants them."""
    return [[getattr(row, name) for row in rows] for name in names]


def _first_of_each_key(rows: Sequence[NewRequest]) -> list[NewRequest]:
    """Rows without those whose idempotency key stands earlier in the same batch.

    One statement cannot upsert a key twice (21000); the later ones read back what became of the first.
    """
    seen: set[tuple[UserId, str]] = set()
    first = []
    for row in rows:
        if row.key is not None:
            if (row.user_id, row.key) in seen:
                continue
            seen.add((row.user_id, row.key))
        first.append(row)
    return first
