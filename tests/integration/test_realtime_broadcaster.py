"""What Supabase Realtime is told: each change, to its user alone, in few statements, and never in anyone's way."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
import pytest

from server.actors import realtime_broadcaster as module
from server.actors.realtime_broadcaster import RealtimeBroadcaster
from server.model_request import RequestId, mint_id
from server.storage.database import Database, DedicatedConnection
from tests.postgres import bring_forward
from tests.signals import until
from tests.supabase import Project


class CountingLine(DedicatedConnection):
    calls = 0
    answered: asyncio.Event

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        self.calls += 1
        rows = await super().fetch(query, *args)
        self.answered.set()
        return rows


@asynccontextmanager
async def running(url: str) -> AsyncIterator[tuple[RealtimeBroadcaster, CountingLine]]:
    line = CountingLine(Database(url).connect)
    line.answered = asyncio.Event()
    notifier = RealtimeBroadcaster(line)
    task = asyncio.create_task(notifier.run())
    try:
        yield notifier, line
    finally:
        task.cancel()
        await asyncio.wait({task})
        line.terminate()


async def add_requests(project: Project, user_id: UUID, count: int) -> list[RequestId]:
    ids = [mint_id() for _ in range(count)]
    async with project.connected() as connection:
        await connection.executemany(
            "INSERT INTO model_requests (id, user_id, status, model_type, input_data)"
            """ VALUES ($1, $2, 'pending', 'text2text', '{"prompt": "secret"}')""",
            [(request_id, user_id) for request_id in ids],
        )
    return ids


async def heard(project: Project, count: int) -> list[dict[str, object]]:
    """Messages, once there are so many of them."""
    async with project.connected(is_admin=True) as connection:

        async def messages() -> list[dict[str, object]]:
            rows = await connection.fetch("SELECT * FROM realtime.messages ORDER BY inserted_at")
            return [dict(row) for row in rows] if len(rows) >= count else []

        return await until(messages, within_s=20)


async def test_a_change_is_told_to_its_user_on_a_private_topic(any_project: Project) -> None:
    await bring_forward(any_project.url)
    user_id = await any_project.add_user()
    [request_id] = await add_requests(any_project, user_id, 1)
    async with running(any_project.url) as (notifier, _):
        notifier.notify(request_id)
        [message] = await heard(any_project, 1)
    assert (message["topic"], message["event"], message["private"]) == (f"requests:{user_id}", "status", True)
    payload = json.loads(str(message["payload"]))
    assert payload == {"id": str(request_id), "status": "pending", "model_type": "text2text", "completed_at": None}


async def test_a_thousand_changes_take_a_few_statements(project: Project) -> None:
    await bring_forward(project.url)
    ids = await add_requests(project, await project.add_user(), 1000)
    async with running(project.url) as (notifier, line):
        for request_id in ids + ids:
            notifier.notify(request_id)
        assert len(await heard(project, 1000)) == 1000
        assert line.calls == 2


async def test_what_changes_faster_than_it_can_be_told_is_bounded(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 10)
    await bring_forward(project.url)
    ids = await add_requests(project, await project.add_user(), 25)
    async with running(project.url) as (notifier, _):
        for request_id in ids:
            notifier.notify(request_id)
        told = {json.loads(str(message["payload"]))["id"] for message in await heard(project, 10)}
    assert told == {str(request_id) for request_id in ids[-10:]}


async def test_a_request_that_is_gone_is_not_told(project: Project) -> None:
    await bring_forward(project.url)
    [request_id] = await add_requests(project, await project.add_user(), 1)
    async with running(project.url) as (notifier, _):
        notifier.notify(mint_id())
        notifier.notify(request_id)
        assert len(await heard(project, 1)) == 1


async def test_without_realtime_nothing_is_told_and_nothing_breaks(database: str) -> None:
    async with running(database) as (notifier, line):
        notifier.notify(mint_id())
        await asyncio.wait_for(line.answered.wait(), 10)
        assert not notifier._waiting


async def test_a_realtime_that_fails_costs_nobody_anything(project: Project) -> None:
    await bring_forward(project.url)
    ids = await add_requests(project, await project.add_user(), 2)
    async with running(project.url) as (notifier, line):
        async with project.connected(is_admin=True) as connection:
            await connection.execute("ALTER TABLE realtime.messages ADD CONSTRAINT broken CHECK (topic = '') NOT VALID")
            notifier.notify(ids[0])
            await asyncio.wait_for(line.answered.wait(), 10)
            await connection.execute("ALTER TABLE realtime.messages DROP CONSTRAINT broken")
        notifier.notify(ids[1])
        [message] = await heard(project, 1)
    assert json.loads(str(message["payload"]))["id"] == str(ids[1])
