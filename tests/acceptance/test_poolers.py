"""Servers whose way to Postgres leads through a pooler, as Supabase's and PgBouncer's do."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import pytest
from aiohttp.test_utils import TestClient
from pytest_aiohttp import AiohttpClient

from server.app import create_app
from server.http import keys
from tests.acceptance.conftest import Api, ServerUnderTest, settings_for
from tests.pgbouncer import PgBouncer, running_pgbouncer

OUTAGE_S = 3.0

StartThrough = Callable[..., Awaitable[Api]]


@pytest.fixture(params=["session", "transaction"])
def pooler(request: pytest.FixtureRequest, database: str) -> Iterator[PgBouncer]:
    with running_pgbouncer(database, request.param) as pooler:
        yield pooler


@pytest.fixture
async def start_through(aiohttp_client: AiohttpClient) -> StartThrough:
    async def start(pooler: PgBouncer, database: str, **overrides: Any) -> Api:
        url = pooler.through(database)
        app = create_app(settings_for(url, database_pooler=pooler.mode, **overrides), database_url=url)
        client: TestClient[Any, Any] = await aiohttp_client(ServerUnderTest(app))
        async with asyncio.timeout(20):
            await app[keys.LIFECYCLE].wait_ready()
        return Api(client, app)

    return start


async def _connections(database: str) -> int:
    connection = await asyncpg.connect(database)
    try:
        return int(
            await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    finally:
        await connection.close()


@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_an_empty_database_is_migrated_and_served(
    start_through: StartThrough, empty_database: str, mode: str
) -> None:
    with running_pgbouncer(empty_database, mode) as pooler:
        user = await (await start_through(pooler, empty_database)).sign_up()
        replies = await asyncio.gather(*(user.create(f"number {number}") for number in range(30)))
        assert {reply.json["status"] for reply in replies} == {"completed"}
        page = await user.get("/api/requests?limit=50")
        assert {item["id"] for item in page.json} == {reply.json["id"] for reply in replies}
        await _stop(user)


async def test_two_instances_share_the_work_and_answer_for_each_other(
    start_through: StartThrough, pooler: PgBouncer, database: str
) -> None:
    here, there = [await start_through(pooler, database, concurrency=2) for _ in range(2)]
    user = await here.sign_up()
    created = [await user.create_async(f"number {number}", model="offline/slow-2s") for number in range(6)]
    elsewhere = Api(there.client, there.app, user.token, user.user_id)
    replies = await asyncio.gather(*(elsewhere.get(f"/api/requests/{one.json['id']}?wait=30") for one in created))
    assert [reply.json["status"] for reply in replies] == ["completed"] * 6
    assert {reply.json["attempt"] for reply in replies} == {1}


async def test_nothing_is_lost_when_the_pooler_is_killed_and_comes_back(
    start_through: StartThrough, pooler: PgBouncer, database: str
) -> None:
    user = await (await start_through(pooler, database, concurrency=4)).sign_up()
    created = [await user.create_async(f"number {number}", model="offline/slow-2s") for number in range(8)]
    pooler.kill()
    refused = await user.create_async("while it is away")
    assert (refused.status, "Retry-After" in refused.headers) == (503, True)
    await asyncio.sleep(OUTAGE_S)
    pooler.start()
    replies = await asyncio.gather(*(_outcome(user, one.json["id"]) for one in created))
    assert [reply["status"] for reply in replies] == ["completed"] * 8
    assert (await user.create("after it")).json["status"] == "completed"


async def test_a_session_pooler_with_fifteen_places_holds_three_instances(
    start_through: StartThrough, database: str
) -> None:
    """Supabase's smallest project; a new version starts before the old one has ended."""
    with running_pgbouncer(database, "session", size=15) as pooler:
        servers = [await start_through(pooler, database) for _ in range(3)]
        for server in servers:
            await server.app[keys.ENGINE]._heartbeat.beat()  # now all of them know that they are three
        user = await servers[0].sign_up()
        users = [Api(server.client, server.app, user.token, user.user_id) for server in servers]
        replies = await asyncio.gather(*(api.create(f"number {n}") for api in users for n in range(20)))
        assert {reply.json["status"] for reply in replies} == {"completed"}
        assert await _connections(database) <= 15
        assert not any(server.app[keys.ENGINE]._listener.is_heard for server in servers)


async def test_migrations_go_by_the_direct_way_where_there_is_one(
    start_through: StartThrough, empty_database: str
) -> None:
    with running_pgbouncer(empty_database, "transaction") as pooler:
        user = await start_through(pooler, empty_database, listen_database_url=empty_database)
        assert (await (await user.sign_up()).create()).json["status"] == "completed"
        await _stop(user)


async def _outcome(user: Api, request_id: str) -> Any:
    """However often the database is away meanwhile."""
    async with asyncio.timeout(60):
        while True:
            reply = await user.get(f"/api/requests/{request_id}?wait=20")
            if reply.status == 200 and reply.json["status"] in {"completed", "failed"}:
                return reply.json
            await asyncio.sleep(0.2)


async def _stop(api: Api) -> None:
    """Before its pooler."""
    await api.client.close()
