"""Usage is exact: after kill -9 under load, with cancels, failures and broken streams, it is the sum of the history."""

import asyncio
import json
import random
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.huggingface import Answer, End, FakeHuggingFace, Received, chat_answer, error_answer, event
from tests.faults.audit import audit_usage, embedded_url, settle
from tests.faults.clients import Clients
from tests.faults.processes import ServerProcess, serving

IN_FLIGHT = 60
KINDS = 6
CANCELLED = 5
"""Of the kinds of answers, the one whose requests are cancelled while it comes."""
PRICES = {"org/model": {"input": 0.37, "cached": 0.041, "output": 1.93}}


def respond(received: Received) -> Answer:
    """Whole and counted, not counted, broken off, refused, or long, by the number in the prompt."""
    number = _number(received.body["messages"][-1]["content"])
    match number % KINDS:
        case 0 | 1:
            return replace(chat_answer("Hi ", "there", usage=(number, 2)), pause_s=0.02)
        case 2:
            return chat_answer("Hi", usage=None)
        case 3:
            return _growing(number, steps=4, end=End.CUT)
        case 4:
            return error_answer(400)
        case _:
            return _growing(number, steps=40, end=End.CLEAN)


def _growing(number: int, *, steps: int, end: End) -> Answer:
    pieces = tuple(
        event(
            {
                "choices": [{"index": 0, "delta": {"content": f"word {step} "}}],
                "usage": {
                    "prompt_tokens": number,
                    "completion_tokens": step,
                    "total_tokens": number + step,
                    "prompt_tokens_details": {"cached_tokens": number // 2},
                    "completion_tokens_details": {"reasoning_tokens": step // 3},
                },
            }
        )
        for step in range(1, steps + 1)
    )
    return Answer(200, chat_answer().headers, pieces, pause_s=0.03, end=end)


def _number(prompt: str) -> int:
    return int(prompt.rsplit(maxsplit=1)[-1])


async def cancel_some(server: ServerProcess, clients: Clients) -> None:
    """Cancel, until cancelled itself, every acknowledged request whose answer is long."""
    seen = 0
    headers = {"Authorization": f"Bearer {server.token}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        while True:
            await asyncio.sleep(0.1)
            acknowledged = clients.acknowledged
            for told in acknowledged[seen:]:
                if _number(told.prompt) % KINDS == CANCELLED:
                    url = f"http://127.0.0.1:{server.port}/api/requests/{told.id}/cancel"
                    try:
                        async with session.post(url):
                            pass
                    except (aiohttp.ClientError, ConnectionError):
                        continue
            seen = len(acknowledged)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_usage_is_the_sum_of_the_history_after_kills(tmp_path: Path, *, is_soak: bool) -> None:
    kills = 40 if is_soak else 4
    chance = random.Random(kills)  # noqa: S311 - to be repeated, not to be secret
    prices = tmp_path / "prices.json"
    prices.write_text(json.dumps(PRICES))
    async with (
        FakeHuggingFace(default=respond, models=["org/model"]) as upstream,
        serving(tmp_path / "data", HF_BASE_URL=upstream.url, TEXT_MODELS="org/model", PRICES=str(prices)) as server,
    ):
        clients = Clients(server)
        cancelling = asyncio.create_task(cancel_some(server, clients))
        async with clients.in_flight(IN_FLIGHT):
            for _ in range(kills):
                await asyncio.sleep(chance.uniform(0.5, 2.0))
                server.kill()
                await asyncio.to_thread(server.start)
            await asyncio.sleep(1)
        cancelling.cancel()
        await asyncio.wait({cancelling})
        await settle(embedded_url(server), timeout_s=120)
        total = await audit_usage(embedded_url(server))
        _, report = await asyncio.to_thread(server.call, "GET", "/api/usage?group_by=model")
    print(f"{kills} kills: {dict(total)}")
    for name in ("completed", "failed", "cancelled", "cached_tokens", "reasoning_tokens", "unmetered", "cost_usd"):
        assert total[name] > 0, f"the load had nothing of {name}"
    shown = report["total"]
    assert (shown["total_tokens"], shown["output_tokens"]) == (total["token_used"], total["token_count"])
    assert shown["cost_usd"] == float(total["cost_usd"])
