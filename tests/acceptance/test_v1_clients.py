"""The five most used clients of `/v1`, unmodified, through all scenarios. `make test-clients` tries all clients."""

import sys
from pathlib import Path

import pytest

from tests.acceptance.conftest import Start
from tests.acceptance.openai_upstream import start_online
from tests.clients.v1 import expected, scenarios
from tests.clients.v1.clients import CLIENTS, DENO, Client
from tests.clients.v1.upstream import respond
from tests.deno import fetch_packages
from tests.fakes.huggingface import FakeHuggingFace

MOST_USED = [
    "openai (Python)",
    "huggingface-hub (Python)",
    "openai (JavaScript)",
    "@ai-sdk/openai-compatible (JavaScript)",
    "@huggingface/inference (JavaScript)",
]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.mark.parametrize(
    "client", [pytest.param(client, id=client.name) for client in CLIENTS if client.name in MOST_USED]
)
async def test_the_client_gets_what_it_asks_for(client: Client, start: Start) -> None:
    if client.environment == DENO:
        fetch_packages(client.path)
    async with FakeHuggingFace(default=respond) as upstream:
        api = await start_online(start, upstream)
        url = str(api.client.make_url("/v1"))
        target = scenarios.Target(url, str(api.token), expected.SCENARIOS, expected.fault)
        faults = await scenarios.run(client, target, Path(sys.executable))
    assert [f"{name}: {fault}" for name, fault in faults.items() if fault] == []
    assert faults.keys() == set(expected.SCENARIOS) - client.reasons.keys()
