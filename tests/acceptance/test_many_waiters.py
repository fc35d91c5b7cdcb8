"""Hundreds of long-polls whose requests end in one go: each client gets its final object, wherever the row changed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from server.http import keys
from tests.acceptance.conftest import Api, Start
from tests.fakes.huggingface import chat_answer
from tests.signals import until

WAITERS = 300
AT_ONCE = 20
"""So many creates are no crowd, which would be asked to come back."""


class HeldBack:
    """A model provider whose answers all come when `release` is set."""

    def __init__(self) -> None:
        self.url = ""
        self.release = asyncio.Event()
        self._answer = chat_answer("Once upon a time")

    async def handle(self, request: web.Request) -> web.Response:
        await request.read()
        await self.release.wait()
        return web.Response(body=self._answer.body, headers=self._answer.headers)


@pytest.fixture
async def upstream() -> AsyncIterator[HeldBack]:
    held_back = HeldBack()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", held_back.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        held_back.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield held_back
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("is_elsewhere", [False, True], ids=["run here", "run by another instance"])
async def test_everyone_who_waits_gets_the_final_object(
    start: Start, upstream: HeldBack, *, is_elsewhere: bool
) -> None:
    settings: dict[str, Any] = {"inference_backend": "huggingface", "hf_base_url": upstream.url}
    settings |= {"text_models": "org/model", "concurrency": 2 * WAITERS}
    user = await (await start(**settings)).sign_up()
    asked = await start(**settings) if is_elsewhere else user
    request_ids = await _create(user, WAITERS)
    async with _long_polls(asked, user.token or "", request_ids) as polls:
        upstream.release.set()
        async with asyncio.timeout(30):
            items = await asyncio.gather(*polls)
    history = (await user.get("/api/requests", params={"limit": "1000"})).json
    assert {item["status"] for item in items} == {"completed"}
    assert {item["id"]: item for item in items} == {item["id"]: item for item in history}
    assert [item["id"] for item in items] == request_ids
    assert len(asked.app[keys.REQUESTS].subscriptions) == 0


async def _create(user: Api, count: int) -> list[str]:
    limit = asyncio.Semaphore(AT_ONCE)

    async def create() -> str:
        async with limit:
            reply = await user.create_async()
        assert reply.status == 202, reply.body
        return str(reply.json["id"])

    return await asyncio.gather(*(create() for _ in range(count)))


@asynccontextmanager
async def _long_polls(asked: Api, token: str, request_ids: list[str]) -> AsyncIterator[list["asyncio.Task[Any]"]]:
    """A long-poll for each request, each on a connection of its own; all are waiting when the block begins."""
    headers = {"Authorization": f"Bearer {token}"}
    connector = aiohttp.TCPConnector(limit=0)

    async def poll(session: aiohttp.ClientSession, request_id: str) -> Any:
        url = asked.client.make_url(f"/api/requests/{request_id}?wait=60")
        async with session.get(url) as response:
            assert response.status == 200
            return await response.json()

    async with aiohttp.ClientSession(headers=headers, connector=connector) as session, asyncio.TaskGroup() as group:
        polls = [group.create_task(poll(session, request_id)) for request_id in request_ids]
        await until(lambda: len(asked.app[keys.REQUESTS].subscriptions) >= len(request_ids), within_s=30)
        yield polls
