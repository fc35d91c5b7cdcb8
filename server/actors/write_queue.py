"""Queues of rows to write, one for each kind, taken in batches."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from server.model_request import RequestId

MAX_BATCH_ROWS = 500
MAX_BATCH_BYTES = 2 * 1024 * 1024
"""A slow network can send this within the time limit of a statement."""


class Row(Protocol):
    """A row that can be written. `size` is its approximate size on the wire, in bytes."""

    @property
    def id(self) -> RequestId: ...

    @property
    def size(self) -> int: ...


SomeRow = TypeVar("SomeRow", bound=Row)
Reply = TypeVar("Reply")


class PendingWrite(Generic[SomeRow, Reply]):
    """A row, and the future of its caller."""

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

    A patient queue gives up a row only when the database refuses its content: it holds outcomes and releases. The other
    kind drops rows whose caller has gone.
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
        pending: PendingWrite[SomeRow, Reply] = PendingWrite(row)
        self._waiting.append(pending)
        self.size += row.size
        return pending

    def take_batch(self) -> list[PendingWrite[SomeRow, Reply]]:
        """The next rows to write together; at least one, unless the queue is empty."""
        batch: list[PendingWrite[SomeRow, Reply]] = []
        size = 0
        while self._waiting and len(batch) < MAX_BATCH_ROWS and (not batch or size < MAX_BATCH_BYTES):
            pending = self._waiting.popleft()
            self.size -= pending.row.size
            size += pending.row.size
            batch.append(pending)
        return batch

    def put_back(self, writes: Sequence[PendingWrite[SomeRow, Reply]]) -> None:
        """Put rows that were taken and not written back in front."""
        unwritten = [pending for pending in writes if not pending.reply.done()]
        self._waiting.extendleft(reversed(unwritten))
        self.size += sum(pending.row.size for pending in unwritten)

    def park(self, pending: PendingWrite[SomeRow, Reply]) -> None:
        """Set a row aside that cannot be written now, so that it does not block the others."""
        self._parked.append(pending)

    def unpark(self) -> None:
        """Put parked rows back into the queue."""
        parked, self._parked = self._parked, []
        self.put_back(parked)

    def wanted(self, writes: Sequence[PendingWrite[SomeRow, Reply]]) -> list[PendingWrite[SomeRow, Reply]]:
        """Those that still have to be written."""
        return [pending for pending in writes if self.is_patient or not pending.reply.done()]
