"""Answers named statements without a database."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

Rows = Sequence[dict[str, Any]]
Answer = Rows | Exception | Callable[..., Rows | Awaitable[Rows]]


class FakeStatements:
    """Both a pool and a dedicated connection: `answers` by the name of the statement, as rows, an error, or a function.

    A statement without an answer returns no row. `asked` lists what was sent, with its arguments.
    """

    def __init__(self, **answers: Answer) -> None:
        self.answers = answers
        self.asked: list[tuple[str, tuple[Any, ...]]] = []

    async def fetch(self, query: str, *args: Any) -> Rows:
        self.asked.append((query, args))
        await asyncio.sleep(0)
        answer = self.answers.get(query, ())
        if isinstance(answer, Exception):
            raise answer
        rows = answer(*args) if callable(answer) else answer
        return await rows if isinstance(rows, Awaitable) else rows

    async def fetch_row(self, query: str, *args: Any) -> dict[str, Any] | None:
        rows = await self.fetch(query, *args)
        return rows[0] if rows else None

    @property
    def names(self) -> list[str]:
        """The names of the statements sent so far, in order."""
        return [name for name, _ in self.asked]

    def args_of(self, query: str) -> list[tuple[Any, ...]]:
        """The arguments of every call of one statement."""
        return [args for name, args in self.asked if name == query]
