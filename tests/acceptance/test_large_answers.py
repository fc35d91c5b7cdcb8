"""Large answers: whole for who reads them, and bounded in memory and time for who does not."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from server.http import keys
from server.http import large_responses as large_answers
from server.limits.memory import MemoryBudget
from server.model_request import UserId
from server.requests.history import MAX_PAGE_BYTES
from tests.acceptance.conftest import Api
from tests.signals import until

LARGE = "x" * 190_000
PATH = "/api/requests?limit=1000"
PLAIN = {"Accept-Encoding": "identity"}


@pytest.fixture
async def api(api: Api) -> Api:
    """Its user's first page is as large as pages get."""
    for _ in range(12):
        assert (await api.create(LARGE)).status == 200
    return api


@asynccontextmanager
async def unread(api: Api) -> AsyncIterator[asyncio.StreamReader]:
    """A connection that asked for more than the kernel keeps for it; nothing is read unless the test does it."""
    own = socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    own.setblocking(False)  # noqa: FBT003 - its only parameter
    await asyncio.get_running_loop().sock_connect(own, ("127.0.0.1", api.client.port))
    reader, writer = await asyncio.open_connection(sock=own, limit=1024)
    head = f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.token}\r\n"
    writer.write(f"{head}\r\n{head}\r\n{head}Connection: close\r\n\r\n".encode())
    try:
        yield reader
    finally:
        writer.close()


async def is_taken(room: MemoryBudget, free: int) -> None:
    await until(lambda: room.free < free)


async def test_a_large_answer_comes_whole_and_as_the_small_ones_are(api: Api) -> None:
    small, large = await api.get("/api/requests?limit=1&status=failed"), await api.get(PATH, headers=PLAIN)
    assert large.status == 200
    assert MAX_PAGE_BYTES // 2 < len(large.body) < MAX_PAGE_BYTES
    assert [item["input_data"]["prompt"] for item in large.json] == [LARGE] * len(large.json)
    assert set(large.headers) - set(small.headers) == {"Vary"}  # it may be compressed
    head = await api.send("HEAD", PATH, headers=PLAIN)
    assert (head.body, head.headers["Content-Length"]) == (b"", str(len(large.body)))
    assert api.app[keys.RESPONSE_MEMORY].free == 64 * 1024 * 1024


async def test_answers_that_one_user_does_not_read_take_part_of_the_room(api: Api) -> None:
    other = await api.sign_up()
    for _ in range(2):
        assert (await other.create(LARGE)).status == 200
    size = len((await api.get(PATH, headers=PLAIN)).body)
    room = api.app[keys.RESPONSE_MEMORY]
    free = room.free
    assert api.user_id is not None
    with room.reserve(UserId(UUID(api.user_id)), free // 2 - 3 * size // 2):
        async with unread(api) as reader:
            await is_taken(room, free // 2 + 3 * size // 2)
            refusal = await api.get(PATH, headers=PLAIN)
            assert (refusal.status, refusal.json["code"]) == (429, "RATE_LIMITED")
            assert refusal.headers["Retry-After"]
            assert (await api.get("/api/requests?limit=1&status=failed")).status == 200
            assert (await api.create(LARGE)).status == 200, "what was done is told in any case"
            assert (await other.get(PATH, headers=PLAIN)).status == 200
            answers = (await reader.read(-1)).split(b"HTTP/1.1 ")[1:]
    assert [answer[:6] for answer in answers] == [b"200 OK"] * 3
    assert [len(json.loads(answer.partition(b"\r\n\r\n")[2])) > 1 for answer in answers] == [True] * 3
    assert (await api.get(PATH, headers=PLAIN)).status == 200
    assert room.free == free


async def test_who_takes_nothing_of_a_large_answer_is_cut_off(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_answers, "STALL_S", 0.3)
    room = api.app[keys.RESPONSE_MEMORY]
    free = room.free
    async with unread(api) as reader:
        await is_taken(room, free)
        await until(lambda: room.free >= free)
        assert (await reader.read(-1)).count(b"HTTP/1.1 ") < 3
