"""The fake upstream, and clients of it that are closed at the end of a test."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
import uvloop

from tests.fakes.huggingface import FakeHuggingFace
from tests.integration.upstream.generations import Client, Connect


@pytest.fixture
async def fake() -> AsyncIterator[FakeHuggingFace]:
    async with FakeHuggingFace() as fake:
        yield fake


@pytest.fixture
async def connect(fake: FakeHuggingFace) -> AsyncIterator[Connect]:
    clients: list[Client] = []

    def connect(**options: Any) -> Client:
        clients.append(Client(fake, **options))
        return clients[-1]

    yield connect
    for client in clients:
        await client.upstream.close()


@pytest.fixture
def client(connect: Connect) -> Client:
    return connect()


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """What becomes of sockets is seen on both loops: aiohttp leaves it to them."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.stem in {"test_cancel", "test_bodies"}:
        factories["uvloop"] = uvloop.new_event_loop
    return factories
