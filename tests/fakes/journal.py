"""A journal in memory."""

import asyncio
from collections import deque
from datetime import UTC, datetime, timedelta

from server.actors.writes import Accepted, NewRequest, ReleasedRow, Replayed, WriteResult, WriteStatus
from server.model_request import FinalRow

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class FakeJournal:
    """Keeps the rows that it is given. `errors` are raised by the next writes, one each.

    `replayed` answers every accept, `result` every outcome, and `release_result` every release.
    """

    def __init__(self) -> None:
        self.accepted: list[NewRequest] = []
        self.recorded: list[FinalRow] = []
        self.released: list[ReleasedRow] = []
        self.errors: deque[Exception] = deque()
        self.replayed: Replayed | None = None
        self.result = WriteResult(WriteStatus.WRITTEN, NOW)
        self.release_result = WriteResult(WriteStatus.WRITTEN, None)

    async def accept(self, row: NewRequest) -> Accepted | Replayed:
        await self._reply()
        if self.replayed is not None:
            return self.replayed
        self.accepted.append(row)
        return Accepted(NOW, NOW + timedelta(seconds=row.deadline_s))

    async def record(self, row: FinalRow) -> WriteResult:
        self.recorded.append(row)
        await self._reply()
        return self.result

    async def release(self, row: ReleasedRow) -> WriteResult:
        self.released.append(row)
        await self._reply()
        return self.release_result

    async def _reply(self) -> None:
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors.popleft()
