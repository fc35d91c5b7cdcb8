"""A server of one's own is asked for its models, and checked by them; the router is checked by a call."""

import asyncio
from dataclasses import replace

import pytest
from aiohttp.test_utils import unused_port

from server.inference.edge import EdgeFunction
from server.inference.events import Call, Event, GenerationFailed, Task, UpstreamFault
from server.model_request import Completed
from tests.fakes.huggingface import (
    Answer,
    End,
    chat_answer,
    error_answer,
    json_answer,
)
from tests.integration.upstream.generations import PROMPT, TOKEN, Client, Connect


async def run_own(client: Client) -> Event:
    own = Call(Task.CHAT_COMPLETION, (), {"prompt": PROMPT}, {})
    return [event async for event in client.upstream.generate(own, timeout_s=5)][-1]


async def test_the_first_model_of_a_server_is_its_default_and_asked_for_once(client: Client) -> None:
    client.fake.models = ["llama3.2:latest", "other"]
    client.fake.default = lambda _: chat_answer("fine")
    outcomes = await asyncio.gather(*(run_own(client) for _ in range(5)))
    assert {outcome.model for outcome in outcomes if isinstance(outcome, Completed)} == {"llama3.2:latest"}
    assert [received.method for received in client.fake.received].count("GET") == 1


async def test_who_gives_up_does_so_for_nobody_else(client: Client) -> None:
    client.fake.listing = replace(json_answer({"data": [{"id": "late"}]}), delay_s=0.2)
    client.fake.default = lambda _: chat_answer("fine")
    one, other = (asyncio.create_task(run_own(client)) for _ in range(2))
    async with asyncio.timeout(5):
        await client.fake.called.wait()
    one.cancel()
    outcome = await other
    assert isinstance(outcome, Completed)
    assert outcome.model == "late"


async def test_a_server_that_lists_nothing_is_asked_without_a_model(client: Client) -> None:
    client.fake.answer(chat_answer("fine"))
    assert isinstance(await run_own(client), Completed)
    assert "model" not in client.fake.calls[0].body


async def test_a_server_without_any_model_says_so(client: Client) -> None:
    client.fake.models = []
    failed = await run_own(client)
    assert isinstance(failed, GenerationFailed)
    assert not failed.transient
    assert "no model" in failed.message


async def test_a_default_that_is_gone_is_asked_for_again(client: Client) -> None:
    client.fake.models = ["old"]
    client.fake.answer(chat_answer("fine"), error_answer(404, "model 'old' not found"), chat_answer("fine"))
    await run_own(client)
    assert isinstance(await run_own(client), GenerationFailed)
    client.fake.models = ["new"]
    outcome = await run_own(client)
    assert isinstance(outcome, Completed)
    assert outcome.model == "new"


async def test_a_server_that_is_away_is_asked_again_when_it_is_back(connect: Connect) -> None:
    client = connect(max_retries=0)
    client.fake.listing = Answer(503)
    failed = await run_own(client)
    assert isinstance(failed, GenerationFailed)
    assert failed.transient
    client.fake.listing, client.fake.models = None, ["back"]
    client.fake.answer(chat_answer("fine"))
    outcome = await run_own(client)
    assert isinstance(outcome, Completed)
    assert outcome.model == "back"


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (json_answer({"error": {"message": "x", "code": "model_not_found"}}, status=400), None),
        (error_answer(401, "Invalid credentials in Authorization header"), UpstreamFault.TOKEN_REFUSED),
        (error_answer(402, "You have depleted your credits"), UpstreamFault.NO_CREDITS),
        (error_answer(403, "No permissions on behalf of user jo"), UpstreamFault.NO_PERMISSION),
        (error_answer(502), UpstreamFault.UNEXPECTED),
        (error_answer(422), UpstreamFault.UNEXPECTED),
        (Answer(is_silent=True, end=End.CUT), UpstreamFault.UNREACHABLE),
    ],
)
async def test_the_router_is_checked_by_a_call_that_costs_nothing(
    client: Client, answer: Answer, fault: UpstreamFault | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.inference.huggingface.is_router", lambda _: True)
    client.fake.answer(answer)
    check = await client.upstream.check()
    assert (check.fault, check.is_ok) == (fault, fault is None)
    assert check.detail.endswith(".")
    assert client.fake.calls[0].body["max_tokens"] == 1


async def test_a_server_of_one_s_own_is_checked_by_its_models(client: Client) -> None:
    client.fake.models = ["llama3.2:latest"]
    check = await client.upstream.check()
    assert check.is_ok
    assert "llama3.2:latest" in check.detail
    assert client.fake.calls == []


async def test_an_address_without_models_is_a_fault_with_a_remedy(client: Client) -> None:
    check = await client.upstream.check()
    assert check.fault is UpstreamFault.UNEXPECTED
    assert "HF_BASE_URL" in check.detail
    client.fake.models = []
    assert "has no model" in (await client.upstream.check()).detail


async def test_an_unreachable_server_is_a_fault_with_a_remedy(connect: Connect) -> None:
    check = await connect(base_url=f"http://127.0.0.1:{unused_port()}").upstream.check()
    assert check.fault is UpstreamFault.UNREACHABLE
    assert "HF_BASE_URL" in check.detail


async def test_an_edge_function_lists_no_models_and_is_not_asked_for_them() -> None:
    edge = EdgeFunction(supabase_url="http://127.0.0.1:1", key="sb_secret_x", timeout_s=1, connections=1)
    assert await edge.listing() is None
    await edge.close()


async def test_the_live_listing_is_that_of_the_server(client: Client) -> None:
    client.fake.models = ["llama3.2:latest"]
    listing = await client.upstream.listing()
    assert listing is not None
    assert [model.id for model in listing.models] == ["llama3.2:latest"]
    assert client.fake.received[0].headers["Authorization"] == f"Bearer {TOKEN}"
