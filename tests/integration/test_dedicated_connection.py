"""Connections that are opened over a network which loses what is sent."""

import asyncio
from typing import Any

import asyncpg
import pytest

import server.storage.database
import server.storage.reader
from server.errors import Unavailable
from server.storage.database import Database, DatabaseAway, DedicatedConnection
from server.storage.hedge import MAX_AT_ONCE, connect_overlapping
from server.storage.reader import PooledQueries

_STAGGER_S = 0.02
_STATEMENTS = {"one": "SELECT 1 AS one", "who": "SELECT pg_backend_pid() AS pid", "sleep": "SELECT pg_sleep(60)"}


@pytest.fixture(autouse=True)
def _statements(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (server.storage.database, server.storage.reader):
        monkeypatch.setattr(module, "statements", lambda: _STATEMENTS)


class Attempts:
    """Attempts that get no answer, but for the one with the number `answered` and those after it."""

    def __init__(self, url: str, *, answered: int) -> None:
        self._database = Database(url)
        self._answered = answered
        self._news = asyncio.Condition()
        self.begun = 0
        self.pending = 0
        self.most_at_once = 0
        self.opened: list[asyncpg.Connection[Any]] = []

    async def __call__(self) -> "asyncpg.Connection[Any]":
        self.begun += 1
        number = self.begun
        await self._count(1)
        try:
            if number < self._answered:
                await asyncio.Event().wait()
            self.opened.append(await self._database.connect())
            return self.opened[-1]
        finally:
            await self._count(-1)

    async def _count(self, step: int) -> None:
        async with self._news:
            self.pending += step
            self.most_at_once = max(self.most_at_once, self.pending)
            self._news.notify_all()

    async def wait_begun(self, count: int) -> None:
        async with asyncio.timeout(5), self._news:
            await self._news.wait_for(lambda: self.begun >= count)

    async def wait_ended(self) -> None:
        """Until none is on its way any more."""
        async with asyncio.timeout(5), self._news:
            await self._news.wait_for(lambda: not self.pending)


@pytest.mark.parametrize("answered", [1, 2, 3, 8])
async def test_attempts_without_an_answer_are_overtaken_and_leave_nothing(database: str, answered: int) -> None:
    attempts = Attempts(database, answered=answered)
    connection = await connect_overlapping(attempts, stagger_s=_STAGGER_S)
    assert await connection.fetchval("SELECT 1") == 1
    await attempts.wait_ended()
    assert attempts.most_at_once <= MAX_AT_ONCE
    assert attempts.begun >= answered
    assert [other for other in attempts.opened if not other.is_closed()] == [connection]
    connection.terminate()


async def test_the_first_attempt_is_given_all_the_time_it_takes(database: str) -> None:
    others = Attempts(database, answered=1000)
    slow: list[asyncpg.Connection[Any]] = []
    is_first = True

    async def attempt() -> "asyncpg.Connection[Any]":
        nonlocal is_first
        if not is_first:
            return await others()
        is_first = False
        await others.wait_begun(2 * MAX_AT_ONCE)
        slow.append(await Database(database).connect())
        return slow[0]

    connection = await connect_overlapping(attempt, stagger_s=_STAGGER_S)
    assert connection is slow[0]
    connection.terminate()
    await others.wait_ended()


async def test_a_refusal_is_reported_at_once() -> None:
    begun = 0

    async def attempt() -> "asyncpg.Connection[Any]":
        nonlocal begun
        begun += 1
        raise ConnectionRefusedError

    with pytest.raises(ConnectionRefusedError):
        await connect_overlapping(attempt, stagger_s=60)
    assert begun == 1


async def test_whoever_is_cancelled_leaves_no_attempt_behind(database: str) -> None:
    attempts = Attempts(database, answered=1000)
    connecting = asyncio.create_task(connect_overlapping(attempts, stagger_s=_STAGGER_S))
    await attempts.wait_begun(2)
    connecting.cancel()
    await asyncio.wait({connecting})
    await attempts.wait_ended()
    assert connecting.cancelled()


async def test_a_line_opens_past_an_attempt_that_reaches_nobody(database: str) -> None:
    attempts = Attempts(database, answered=2)
    line = DedicatedConnection(lambda: connect_overlapping(attempts, stagger_s=_STAGGER_S))
    [row] = await line.fetch("one")
    assert row["one"] == 1
    line.terminate()
    await attempts.wait_ended()


async def test_the_connections_of_the_server_are_opened_like_that(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, begun = asyncpg.connect, 0

    async def lose_the_first(*args: Any, **options: Any) -> Any:
        nonlocal begun
        begun += 1
        if begun == 1:
            await asyncio.Event().wait()
        return await connect(*args, **options)

    monkeypatch.setattr(asyncpg, "connect", lose_the_first)
    connection = await Database(database).connect()
    assert await connection.fetchval("SELECT 1") == 1
    connection.terminate()


async def test_a_line_whose_database_refuses_says_that_it_is_away() -> None:
    with pytest.raises(DatabaseAway):
        await DedicatedConnection(Database("postgresql://nobody@127.0.0.1:1/none").connect).fetch("one")


async def test_a_statement_without_an_answer_is_noted_as_a_silence(database: str) -> None:
    place = Database(database)
    line = DedicatedConnection(place.connect, timeout_s=0.1, on_silence=place.note_silence)
    with pytest.raises(DatabaseAway, match="no answer"):
        await line.fetch("sleep")
    assert place.silences == 1


async def test_readers_go_on_with_new_connections_after_a_silence(database: str) -> None:
    place = Database(database)
    reader = PooledQueries(place)
    await reader.open()
    [before], [again] = await reader.fetch("who"), await reader.fetch("who")
    hanging = asyncio.create_task(reader.fetch("sleep"))
    place.note_silence()
    [after] = await reader.fetch("who")
    with pytest.raises(Unavailable):
        await hanging
    assert before["pid"] == again["pid"] != after["pid"]
    await reader.close()
