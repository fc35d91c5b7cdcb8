"""Group commit: writes accepted requests, outcomes and releases to Postgres in batches, without a timer.

While one flush is in flight the next batch collects; an idle journal writes at once. A write whose reply did not arrive
is sent again with the same ids, so every statement here is safe to repeat.

The connection is open before this instance is ready, and is opened again as soon as it is lost. `is_ready` follows the
last write: of a row, or of the check that an idle journal makes.
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
from server.telemetry.instruments import Histograms

MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Size of the accepts in memory while the database is slow. Beyond it new ones are refused."""
ACCEPT_TIMEOUT_S = 10.0
PATIENCE_S = 2.0
"""New accepts wait this long for a restart of the database. Once it is away for longer, they are refused at once."""
RETRY_PARKED_S = 5.0
CHECK_INTERVAL_S = 30.0
"""An idle journal writes this often, to notice a connection that was lost silently."""
_CONTENTION_TRIES = 20
_CONTENTION_PAUSE_S = 0.01
_BACKOFF_BASE_S = 0.05
_BACKOFF_CAP_S = 1.0
_BATCH_BOUNDS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
_FLUSH_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0)

log = structlog.get_logger(__name__)

Write = Callable[[Sequence[Any]], Awaitable[None]]


class _Next(Enum):
    REPEAT = auto()
    HALVE = auto()
    SET_ASIDE = auto()
    """For a fault that an operator can correct while the row waits."""
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
        self.batch_sizes = Histograms(_BATCH_BOUNDS)
        self.flush_times = Histograms(_FLUSH_BOUNDS_S)
        """In rows and in seconds, both by the kind of row. A flush takes until the batch is committed."""
        self.is_ready = False
        """Whether the last write succeeded and its connection is still open."""
        connection.watch(self._connection_lost)

    async def check(self) -> None:
        """Commit a write that changes nothing. Raises `DatabaseAway` and asyncpg's errors."""
        await self._connection.fetch("check_writes", self._lease.instance_id)
        self._note_back()

    def _connection_lost(self) -> None:
        self.is_ready = False
        self._work.set()

    async def accept(self, row: NewRequest) -> Accepted | Replayed:
        """Insert a row; returns once it is committed.

        Raises `Unavailable` when the database does not take it in time. The row is then dropped from the journal; if it
        was committed and only the reply was lost, the sweeper finds it. Raises asyncpg's error when the row itself is
        refused.
        """
        if self._accepts.size > MAX_WAITING_BYTES:
            raise Unavailable("The server is overloaded; nothing was accepted.", retry_after_s=2)
        if self._away_since is not None and time.monotonic() - self._away_since > PATIENCE_S:
            raise Unavailable("The database is not available; try again.", retry_after_s=2)
        pending = self._accepts.add(row)
        self._wake()
        timer = asyncio.get_running_loop().call_later(ACCEPT_TIMEOUT_S, _give_up, pending)
        try:
            return await pending.reply
        finally:
            timer.cancel()

    async def record(self, row: FinalRow) -> WriteResult:
        """Write a final state; waits as long as it takes. Raises asyncpg's error when the row itself is refused."""
        pending = self._finals.add(row)
        self._wake()
        return await pending.reply

    async def release(self, row: ReleasedRow) -> WriteResult:
        """Give a row back to the backlog; waits as long as it takes."""
        pending = self._releases.add(row)
        self._wake()
        return await pending.reply

    @property
    def waiting_rows(self) -> int:
        """Rows in memory that no flush has taken yet."""
        return len(self._finals) + len(self._releases) + len(self._accepts)

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
        """Wait for rows to write, for the next try of parked rows, or for the next check of the connection."""
        self._work.clear()
        queues: tuple[WriteQueue[Any, Any], ...] = (self._finals, self._releases)
        has_parked = any(queue.has_parked for queue in queues)
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
        for queue in queues:
            queue.unpark()

    async def _check_idle(self) -> None:
        """Check the database while there is no row to write, and keep `is_ready` up to date."""
        try:
            await self.check()
        except (DatabaseAway, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            self._failed_checks += 1
            self._note_away(error, len(self._accepts))

    def _wake(self) -> None:
        self._settled.clear()
        self._work.set()

    async def _flush(self) -> None:
        """Write one batch of each kind: outcomes and releases first, because they free slots."""
        await self._write_batch("outcomes", self._finals, lambda writes: self._write_fenced("record_outcomes", writes))
        await self._write_batch("releases", self._releases, lambda rows: self._write_fenced("release_requests", rows))
        await self._write_batch("accepts", self._accepts, self._write_accepts)

    async def _write_batch(self, kind: str, queue: WriteQueue[Any, Any], send: Write) -> None:
        if not (batch := queue.take_batch()):
            return
        started = time.monotonic()
        try:
            await self._persist(batch, queue, send)
            self.batch_sizes.observe(len(batch), (kind,))
            self.flush_times.observe(time.monotonic() - started, (kind,))
        except BaseException:
            queue.put_back(batch)  # cancelled or crashed: the next run writes them
            self._wake()
            raise

    async def _persist(self, writes: Sequence[Any], queue: WriteQueue[Any, Any], send: Write) -> None:
        """Repeat a batch until it is written. A batch that is refused is halved until the row at fault is alone."""
        tries = 0
        while writes := queue.wanted(writes):
            try:
                await send(sorted(writes, key=lambda pending: (pending.row.id, pending.row.epoch)))
            except (DatabaseAway, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                tries += 1
                match self._next_step(error, tries, len(writes), queue):
                    case _Next.REPEAT:
                        await asyncio.sleep(_pause_s(error, tries))
                    case _Next.HALVE:
                        middle = len(writes) // 2
                        await self._persist(writes[:middle], queue, send)
                        await self._persist(writes[middle:], queue, send)
                        return
                    case _Next.SET_ASIDE:
                        queue.park(writes[0])
                        return
                    case _Next.GIVE_UP:
                        writes[0].reject(error)
                        return
            else:
                self._note_back()
                return

    def _next_step(self, error: Exception, tries: int, count: int, queue: WriteQueue[Any, Any]) -> "_Next":
        """The reaction to a failed write. An outcome is given up only when its own content is refused."""
        if isinstance(error, DatabaseAway):
            self._note_away(error, count)
            return _Next.HALVE if error.is_slow and count > 1 else _Next.REPEAT  # perhaps too much for a slow network
        fault = classify(error)
        if fault is Fault.BROKEN:
            self.is_ready = False  # until a write has succeeded again
        if fault is Fault.CONTENTION and (queue.is_patient or tries < _CONTENTION_TRIES):
            if tries >= _CONTENTION_TRIES:
                self._note_away(error, count)
            return _Next.REPEAT
        if count > 1:
            return _Next.HALVE
        if fault is not Fault.REJECTED:
            log.error("journal_write_failed", exc_info=error)
        return _Next.SET_ASIDE if queue.is_patient and fault is Fault.BROKEN else _Next.GIVE_UP

    async def _write_accepts(self, writes: Sequence[PendingWrite[NewRequest, Accepted | Replayed]]) -> None:
        rows = [pending.row for pending in writes]
        inserted = await self._connection.fetch(
            "accept_requests",
            *_columns(_first_of_each_key(rows)),
        )
        replies: dict[RequestId, Accepted | Replayed] = {
            record["id"]: Accepted(record["created_at"], record["deadline_at"]) for record in inserted
        }
        if missing := [row for row in rows if row.id not in replies]:
            replies |= await self._read_back(missing)
        for pending in writes:
            if pending.row.id in replies:
                pending.resolve(replies[pending.row.id])
            else:
                pending.reject(Unavailable("The request was not stored; try again.", retry_after_s=1))

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

    async def _write_fenced(self, query: str, writes: Sequence[PendingWrite[Any, WriteResult]]) -> None:
        rows = [pending.row for pending in writes]
        written = await self._connection.fetch(query, *_columns(rows))
        # By id and epoch: a batch may hold a row twice, under two claims, of which one counts.
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
        for pending in writes:
            pending.resolve(replies[pending.row.id, pending.row.epoch])

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


def _give_up(pending: PendingWrite[Any, Any]) -> None:
    pending.reject(Unavailable("The database does not answer; try again.", retry_after_s=2))


def _pause_s(error: Exception, tries: int) -> float:
    if not isinstance(error, DatabaseAway) and tries < _CONTENTION_TRIES:
        return _CONTENTION_PAUSE_S
    return _backoff_s(tries)


def _backoff_s(tries: int) -> float:
    cap_s = min(_BACKOFF_CAP_S, _BACKOFF_BASE_S * float(2 ** min(tries, 10)))
    return random.uniform(0.5, 1) * cap_s  # noqa: S311


def _columns(rows: Sequence[Any], *names: str) -> list[list[Any]]:
    """One array for each of these fields, by default for every field of the rows, for unnest()."""
    return [[getattr(row, name) for row in rows] for name in names or [field.name for field in fields(rows[0])]]


def _first_of_each_key(rows: Sequence[NewRequest]) -> list[NewRequest]:
    """The rows, without those whose idempotency key occurs earlier in the batch.

    One statement cannot upsert a key twice (SQLSTATE 21000). The later rows read back the request of the first.
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
