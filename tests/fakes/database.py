"""A database that answers from `FakeStatements`."""

from collections import deque
from collections.abc import Callable
from typing import Any

from server.pooling import Pooling
from server.storage.queries import statements
from tests.fakes.statements import FakeStatements, Rows

_NAMES = {text: name for name, text in statements().items()}


class FakeConnection:
    """The methods of an asyncpg connection that a dedicated connection uses."""

    def __init__(self, statements: FakeStatements) -> None:
        self._statements = statements
        self._is_closed = False

    async def fetch(self, query: str, *args: Any) -> Rows:
        return await self._statements.fetch(_NAMES[query], *args)

    def is_closed(self) -> bool:
        return self._is_closed

    def add_termination_listener(self, callback: Callable[[Any], None]) -> None:
        pass

    def terminate(self) -> None:
        self._is_closed = True


class FakeDatabase:
    """Every connection answers alike. `refusals` are raised by the next attempts to connect, one each."""

    def __init__(self, statements: FakeStatements) -> None:
        self._statements = statements
        self.pooling = Pooling.NONE
        self.refusals: deque[Exception] = deque()
        self.connections: list[FakeConnection] = []

    async def connect(self) -> FakeConnection:
        if self.refusals:
            raise self.refusals.popleft()
        self.connections.append(FakeConnection(self._statements))
        return self.connections[-1]

    def note_silence(self) -> None:
        pass

    @property
    def open_connections(self) -> int:
        return sum(not connection.is_closed() for connection in self.connections)
