"""What waits to be written, kind by kind, and how it is taken up in batches."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from server.model_request import RequestId

MAX_BATCH_ROWS = 500
MAX_BATCH_BYTES = 2 * 1024 * 1024
"""What a slow line still carries within the time limit of a statement."""


class Row(Protocol):
    """Anything that can be written: `size` is about what it weighs on the wire, in bytes."""

    @property
    def id(self) -> RequestId: ...

    @property
    def size(self) -> int: ...


SomeRow = TypeVar("SomeRow", bound=Row)
Reply = TypeVar("Reply")


class PendingWrite(Generic[SomeRow, Reply]):
    """A row, and the future of whoever waits for it."""

    __slots__ = ("reply", "row")

    def __init__(self, row: SomeRow) -> None:
        self.row = row
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def resolve(self, reply: Reply) -> None:
        if not self.reply.done():
            self.reply.set_result(reply)

    def reject(self, error: BaseException) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)


class WriteQueue(Generic[SomeRow, Reply]):
    """Rows of one kind in the order of their arrival.

    A patient lane gives up nothing but what the database refuses for its content: its rows are outcomes. The other one
    drops what nobody waits for any more.
    """

    def __init__(self, *, is_patient: bool) -> None:
        self.is_patient = is_patient
        self.size = 0
        self._waiting: deque[PendingWrite[SomeRow, Reply]] = deque()
        self._parked: list[PendingWrite[SomeRow, Reply]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def has_parked(self) -> bool:
        return bool(self._parked)

    def add(self, row: SomeRow) -> PendingWrite[SomeRow, Reply]:
        entry: PendingWrite[SomeRow, Reply] = PendingWrite(row)
        self._waiting.append(entry)
        self.size += row.size
        return entry

    def take_batch(self) -> list[PendingWrite[SomeRow, Reply]]:
        """The next rows to write together; at least one, if there is any."""
        batch: list[PendingWrite[SomeRow, Reply]] = []
        size = 0
        while self._waiting and len(batch) < MAX_BATCH_ROWS and (not batch or size < MAX_BATCH_BYTES):
            entry = self._waiting.popleft()
            self.size -= entry.row.size
            size += entry.row.size
            batch.append(entry)
        return batch

    def put_back(self, entries: Sequence[PendingWrite[SomeRow, Reply]]) -> None:
        """Return what was taken and not written, to its old place."""
        unwritten = [entry for entry in entries if not entry.reply.done()]
        self._waiting.extendleft(reversed(unwritten))
        self.size += sum(entry.row.size for entry in unwritten)

    def park(self, entry: PendingWrite[SomeRow, Reply]) -> None:
        """Set one aside that cannot be written now, so that it does not hold up the others."""
        self._parked.append(entry)

    def unpark(self) -> None:
        """Try again what was set aside."""
        parked, self._parked = self._parked, []
        self.put_back(parked)

    def wanted(self, entries: Sequence[PendingWrite[SomeRow, Reply]]) -> list[PendingWrite[SomeRow, Reply]]:
        """Those that are still to be written."""
        return [entry for entry in entries if self.is_patient or not entry.reply.done()]
