"""The fake upstream, and clients of it that are closed at the end of a test."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

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
