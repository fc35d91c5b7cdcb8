"""Group commit: accepted requests and the outcomes of running ones reach Postgres in batches, without a timer.

While one flush is in flight the next batch collects; an idle journal writes at once. A write whose reply did not arrive
is sent again with the same ids, so every statement here is safe to repeat.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import asyncpg
import structlog

from server.actors.entries import Accepted, Fate, FinalRow, NewRequest, Recorded, ReleasedRow, Replayed
from server.errors import Unavailable
from server.model_request import RequestId, UserId
from server.storage.database import DatabaseAway, Line
from server.storage.faults import Fault, classify

MAX_BATCH = 500
MAX_WAITING_ACCEPTS = 5000
ACCEPT_TIMEOUT_S = 10.0
PATIENCE_S = 2.0
"""A restart of the database is waited for; once it is away for longer, newcomers are told so at once."""
_CONTENTION_TRIES = 20
_CONTENTION_PAUSE_S = 0.01
_BACKOFF_BASE_S = 0.05
_BACKOFF_CAP_S = 1.0

log = structlog.get_logger(__name__)


Row = TypeVar("Row")
Reply = TypeVar("Reply")


class _Entry(Generic[Row, Reply]):
    __slots__ = ("reply", "row")

    def __init__(self, row: Row, reply: "asyncio.Future[Reply]") -> None:
        self.row = row
        self.reply = reply

    def resolve(self, reply: Reply) -> None:
        if not self.reply.done():
            self.reply.set_result(reply)

    def reject(self, error: BaseException) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)


_Accepts = Sequence[_Entry[NewRequest, Accepted | Replayed]]
_Finals = Sequence[_Entry[FinalRow, Recorded]]
_Releases = Sequence[_Entry[ReleasedRow, Recorded]]


class Journal:
    """The only writer of accepts, outcomes and releases of this instance."""

    def __init__(self, line: Line, queries: Mapping[str, str]) -> None:
        self._line = line
        self._queries = queries
        self._accepts: list[_Entry[NewRequest, Accepted | Replayed]] = []
        self._finals: list[_Entry[FinalRow, Recorded]] = []
        self._releases: list[_Entry[ReleasedRow, Recorded]] = []
        self._work = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._away_since: float | None = None

    @property
    def is_away(self) -> bool:
        """Whether the last flush found no database."""
        return self._away_since is not None

    async def accept(self, row: NewRequest) -> Accepted | Replayed:
        """Insert a row; returns once it is committed.

        Raises `Unavailable` when the database does not take it in time (it is dropped from the journal; should it have
        been committed with its reply lost, it is found and run). Raises asyncpg's error when the row itself is refused.
        """
        if len(self._accepts) >= MAX_WAITING_ACCEPTS:
            raise Unavailable("The server is overloaded; nothing was accepted.", retry_after_s=2)
        if (
            not self._settled.is_set()
            and self._away_since is not None
            and time.monotonic() - self._away_since > PATIENCE_S
        ):
            raise Unavailable("The database is not available; try again.", retry_after_s=2)
        entry = _Entry[NewRequest, Accepted | Replayed](row, asyncio.get_running_loop().create_future())
        self._accepts.append(entry)
        self._wake()
        try:
            async with asyncio.timeout(ACCEPT_TIMEOUT_S):
                return await entry.reply
        except TimeoutError:
            raise Unavailable("The database does not answer; try again.", retry_after_s=2) from None

    async def record(self, row: FinalRow) -> Recorded:
        """Write a final state; waits as long as it takes. Raises asyncpg's error when the row itself is refused."""
        entry = _Entry[FinalRow, Recorded](row, asyncio.get_running_loop().create_future())
        self._finals.append(entry)
        self._wake()
        return await entry.reply

    async def release(self, row: ReleasedRow) -> Recorded:
        """Give a row back to the backlog; waits as long as it takes."""
        entry = _Entry[ReleasedRow, Recorded](row, asyncio.get_running_loop().create_future())
        self._releases.append(entry)
        self._wake()
        return await entry.reply

    async def wait_flushed(self) -> None:
        """Return once nothing is left to write."""
        await self._settled.wait()

    async def run(self) -> None:
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                while self._accepts or self._finals or self._releases:
                    await self._flush()
                self._settled.set()
        finally:
            self._line.terminate()

    def _wake(self) -> None:
        self._settled.clear()
        self._work.set()

    async def _flush(self) -> None:
        """One round: what ends first (it frees slots), then what begins."""
        finals, self._finals = self._finals[:MAX_BATCH], self._finals[MAX_BATCH:]
        releases, self._releases = self._releases[:MAX_BATCH], self._releases[MAX_BATCH:]
        accepts, self._accepts = self._accepts[:MAX_BATCH], self._accepts[MAX_BATCH:]
        try:
            await self._persist(finals, self._write_finals)
            await self._persist(releases, self._write_releases)
            await self._persist(accepts, self._write_accepts, drop_abandoned=True)
        except BaseException:
            # Stopped in the middle: what was not written is put back, for a successor of this run to write.
            self._finals[:0] = [entry for entry in finals if not entry.reply.done()]
            self._releases[:0] = [entry for entry in releases if not entry.reply.done()]
            self._accepts[:0] = [entry for entry in accepts if not entry.reply.done()]
            self._wake()
            raise

    async def _persist(
        self,
        entries: Sequence[Any],
        write: Callable[[Sequence[Any]], Awaitable[None]],
        *,
        drop_abandoned: bool = False,
    ) -> None:
        """Write a batch until it is written; only rows that the database refuses for what they hold are given up."""
        tries = 0
        while entries := [entry for entry in entries if not (drop_abandoned and entry.reply.done())]:
            try:
                await write(sorted(entries, key=lambda entry: entry.row.id))
            except DatabaseAway as error:
                tries += 1
                self._note_away(error, len(entries))
                await asyncio.sleep(random.uniform(0.5, 1) * min(_BACKOFF_CAP_S, _BACKOFF_BASE_S * 2**tries))  # noqa: S311
            except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                fault = classify(error)
                if fault is Fault.BROKEN and not drop_abandoned:
                    # An outcome is never given up for a fault that a person can mend while this process waits.
                    tries += 1
                    self._note_away(error, len(entries))
                    await asyncio.sleep(_BACKOFF_CAP_S)
                elif fault is Fault.CONTENTION and tries < _CONTENTION_TRIES:
                    tries += 1
                    await asyncio.sleep(_CONTENTION_PAUSE_S)
                elif len(entries) > 1:
                    middle = len(entries) // 2
                    await self._persist(entries[:middle], write, drop_abandoned=drop_abandoned)
                    await self._persist(entries[middle:], write, drop_abandoned=drop_abandoned)
                    return
                else:
                    if fault is not Fault.REJECTED:
                        log.exception("journal_write_failed", id=str(entries[0].row.id))
                    entries[0].reject(error)
                    return
            else:
                self._note_back()
                return

    async def _write_accepts(self, entries: _Accepts) -> None:
        rows = [entry.row for entry in entries]
        inserted = await self._line.fetch(
            self._queries["accept_requests"],
            *_columns(
                _first_of_each_key(rows),
                "id",
                "user_id",
                "model_type",
                "model",
                "input_data",
                "parameters",
                "owner",
                "deadline_s",
                "delay_s",
                "key",
                "fingerprint",
            ),
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
        found = await self._line.fetch(self._queries["read_back_accepts"], *_columns(rows, "id", "user_id", "key"))
        fingerprints = {row.id: row.fingerprint for row in rows}
        replies: dict[RequestId, Accepted | Replayed] = {}
        for record in found:
            row_id = record["id"]
            if record["request_id"] != row_id:
                replies[row_id] = Replayed(record["request_id"], record["fingerprint"] == fingerprints[row_id])
            elif record["created_at"] is not None:
                replies[row_id] = Accepted(record["created_at"], record["deadline_at"])
        return replies

    async def _write_finals(self, entries: _Finals) -> None:
        await self._write_fenced(
            entries,
            "record_outcomes",
            "status",
            "output_data",
            "error_code",
            "error_msg",
            "token_used",
            "token_count",
            "processing_time",
            "model",
        )

    async def _write_releases(self, entries: _Releases) -> None:
        await self._write_fenced(entries, "release_requests", "delay_s", "error_code", "error_msg")

    async def _write_fenced(self, entries: _Finals | _Releases, query: str, *names: str) -> None:
        rows = [entry.row for entry in entries]
        written = await self._line.fetch(self._queries[query], *_columns(rows, "id", "owner", "epoch", *names))
        replies = {record["id"]: Recorded(Fate.WRITTEN, record["completed_at"]) for record in written}
        if unmatched := [row for row in rows if row.id not in replies]:
            for record in await self._line.fetch(
                self._queries["classify_outcomes"], *_columns(unmatched, "id", "owner", "epoch")
            ):
                replies[record["id"]] = Recorded(Fate(record["fate"]), record["completed_at"])
        for entry in entries:
            entry.resolve(replies[entry.row.id])

    def _note_away(self, error: Exception, waiting: int) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            log.warning("database_away", reason=f"{type(error).__name__}: {error}", waiting=waiting)

    def _note_back(self) -> None:
        if self._away_since is not None:
            log.info("database_back", seconds=round(time.monotonic() - self._away_since, 1))
        self._away_since = None


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
