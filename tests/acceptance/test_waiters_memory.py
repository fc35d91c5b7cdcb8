"""Many clients wait for requests with large prompts: the server has stored the prompts and holds none of them."""

import asyncio
import gc
import json
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from server.actors import subscriptions
from server.http import keys
from server.model_request import UserId
from tests.acceptance.conftest import Api, Start
from tests.fakes.raw_upstream import Peer, RawUpstream

WAITERS = 200
WARM_UP = AT_ONCE = 20
"""So many creates are no crowd, which would be asked to come back."""
PROMPT = "x" * 100_000
MAX_HELD_BYTES = len(PROMPT) // 2
"""For each waiter, its connection at both ends included."""

_NATIVE = {"model_type": "text2text", "input_data": {"prompt": PROMPT}}
_CHAT = {"model": "org/model", "messages": [{"role": "user", "content": PROMPT}]}


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        ("/api/requests", {"Prefer": "wait=600"}, _NATIVE),
        ("/api/requests", {"Accept": "text/event-stream"}, _NATIVE),
        ("/v1/chat/completions", {}, _CHAT),
        ("/v1/chat/completions", {}, {**_CHAT, "stream": True}),
    ],
    ids=["wait", "stream", "chat", "chat stream"],
)
async def test_who_waits_holds_no_prompt(
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    headers: dict[str, str],
    body: dict[str, Any],
) -> None:
    # Public objects that waiters keep have their own limit. With 0 they keep none.
    monkeypatch.setattr(subscriptions, "MAX_KEPT_BYTES", 0)
    async with RawUpstream(_never_answer) as upstream:
        settings: dict[str, Any] = {"inference_backend": "huggingface", "hf_base_url": upstream.url, "concurrency": 1}
        settings |= {"max_wait_s": 600, "deadline_s": 3600, "model_timeout": 600_000, "max_backlog_per_user": 5000}
        user = await (await start(**settings, text_models="org/model")).sign_up()
        async with _waiting(user, path, headers, json.dumps(body).encode()) as wait_until:
            await wait_until(WARM_UP)  # what a server needs once, it has now
            before = _held_bytes()
            await wait_until(WARM_UP + WAITERS)
            held = (_held_bytes() - before) / WAITERS
    assert held < MAX_HELD_BYTES


async def _never_answer(peer: Peer) -> None:
    await peer.read_to_end()


def _held_bytes() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@asynccontextmanager
async def _waiting(
    user: Api, path: str, headers: dict[str, str], data: bytes
) -> AsyncIterator[Callable[[int], Awaitable[None]]]:
    """More and more clients that wait, each on a connection of its own: call it with how many there are to be."""
    accepted: set[UUID] = set()
    tasks: list[asyncio.Task[None]] = []
    url = user.client.make_url(path)

    async def post(number: int) -> None:
        names = {"Content-Type": "application/json", "Idempotency-Key": str(number), **headers}
        while True:
            async with session.post(url, data=data, headers=names) as response:
                text = await response.text()
            assert response.status == 503, text
            await asyncio.sleep(float(response.headers["Retry-After"]))  # a busy machine asks to come back

    async def wait_until(count: int) -> None:
        while len(accepted) < count:
            wanted = min(len(accepted) + AT_ONCE, count)
            tasks.extend(group.create_task(post(number)) for number in range(len(tasks), wanted))
            async with asyncio.timeout(120):
                while len(accepted) < wanted:
                    accepted.update(change.id for change in await feed.wait(120))

        assert not any(task.done() for task in tasks)

    authorization = {"Authorization": f"Bearer {user.token}"}
    connector = aiohttp.TCPConnector(limit=0)
    tracemalloc.start()
    try:
        with user.app[keys.FEEDS].open(UserId(UUID(user.user_id))) as feed:
            session = aiohttp.ClientSession(headers=authorization, connector=connector)
            async with session, asyncio.TaskGroup() as group:
                yield wait_until
                for task in tasks:
                    task.cancel()
    finally:
        tracemalloc.stop()
