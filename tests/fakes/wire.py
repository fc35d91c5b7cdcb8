"""A wire between a `Line` and the database which counts what is sent, and fails on demand."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import asyncpg

from server.storage.database import Database
from server.storage.queries import statements


@dataclass(frozen=True, slots=True)
class Sent:
    """One statement: its name, and the length of its first array (how many rows it carries)."""

    query: str
    rows: int


@dataclass(slots=True)
class Wire:
    """Hand its `connect` to a `Line`. The statements run on a real database, except while the wire is cut."""

    url: str
    sent: list[Sent] = field(default_factory=list)
    is_cut: bool = False
    """Connections are refused, those that are open reset."""
    lose_replies: int = 0
    """So many statements are executed and their reply is lost."""
    break_next: Exception | None = None
    """Raised by the next statement instead of sending it."""
    on_statement: Callable[[str], None] = lambda query: None
    """Called after a statement was executed, before its reply is handed out."""
    _gate: asyncio.Event | None = None
    _seen: asyncio.Condition = field(default_factory=asyncio.Condition)
    _refusals: int = 0

    async def connect(self) -> "asyncpg.Connection[Any]":
        await self.refuse_if_cut()
        return cast("asyncpg.Connection[Any]", _Tap(self, await Database(self.url).connect()))

    def hold(self) -> None:
        """From now on replies stay on the wire; their statements are executed."""
        self._gate = asyncio.Event()

    def release_waiting(self) -> None:
        """Deliver what was held, and hold nothing more."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.set()

    async def wait_sent(self, count: int) -> None:
        """Until so many statements were executed."""
        async with self._seen:
            await self._seen.wait_for(lambda: len(self.sent) >= count)

    async def wait_refused(self, count: int) -> None:
        """Until the cut wire was tried so often."""
        async with self._seen:
            await self._seen.wait_for(lambda: self._refusals >= count)

    def batches(self, query: str) -> list[int]:
        """The sizes of the batches in which this query was sent."""
        return [sent.rows for sent in self.sent if sent.query == query]

    async def refuse_if_cut(self) -> None:
        if self.is_cut:
            async with self._seen:
                self._refusals += 1
                self._seen.notify_all()
            raise ConnectionResetError("the wire is cut")

    async def transmit(self, connection: "asyncpg.Connection[Any]", text: str, args: tuple[Any, ...]) -> Any:
        """Execute, then do to the reply what the test asked for."""
        await self.refuse_if_cut()
        if self.break_next is not None:
            error, self.break_next = self.break_next, None
            raise error
        gate = self._gate
        name = next(name for name, known in statements().items() if known == text)
        try:
            reply = await connection.fetch(text, *args)
        finally:
            async with self._seen:
                self.sent.append(Sent(name, len(args[0]) if args and isinstance(args[0], list) else 0))
                self._seen.notify_all()
        self.on_statement(name)
        if gate is not None:
            await gate.wait()
        if self.lose_replies:
            self.lose_replies -= 1
            raise ConnectionResetError("the reply was lost")
        return reply


class _Tap:
    """What a `Line` uses of a connection."""

    def __init__(self, wire: Wire, connection: "asyncpg.Connection[Any]") -> None:
        self._wire = wire
        self._connection = connection

    async def fetch(self, query: str, *args: Any) -> Any:
        return await self._wire.transmit(self._connection, query, args)

    def is_closed(self) -> bool:
        return self._connection.is_closed()

    def add_termination_listener(self, callback: Callable[[Any], None]) -> None:
        self._connection.add_termination_listener(callback)

    def terminate(self) -> None:
        self._connection.terminate()
