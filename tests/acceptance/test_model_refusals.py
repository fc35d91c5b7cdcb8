"""A model that refuses to answer: its words are the text on `/api`, and `refusal` for OpenAI's clients."""

import json
from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.acceptance.conftest import Api, Start, created
from tests.acceptance.openai_upstream import deltas_answer, start_online
from tests.fakes.event_source import final_of, joined
from tests.fakes.huggingface import FakeHuggingFace

DELTAS = ({"content": None, "refusal": "I can"}, {"content": "", "refusal": "not."})
ASK = {"model": "default", "messages": [{"role": "user", "content": "hello"}]}


class Person(BaseModel):
    name: str


@pytest.fixture
async def upstream() -> AsyncIterator[FakeHuggingFace]:
    async with FakeHuggingFace(default=lambda _: deltas_answer(*DELTAS)) as fake:
        yield fake


@pytest.fixture
async def online(start: Start, upstream: FakeHuggingFace) -> Api:
    return await start_online(start, upstream)


async def test_a5_a_refusal_is_the_output_and_named_as_one(online: Api) -> None:
    async with created(online) as source:
        events = await source.all()
    output = final_of(events).data["output_data"]
    assert (joined(events), output["output"], output["refused"]) == ("I cannot.", "I cannot.", True)


async def test_a5_openais_clients_get_it_as_refusal(online: Api) -> None:
    message = (await online.post("/v1/chat/completions", ASK)).json["choices"][0]["message"]
    assert message == {"role": "assistant", "content": None, "refusal": "I cannot."}
    key = {"Idempotency-Key": "k"}
    for _ in range(2):  # as it comes, and from what is stored
        reply = await online.post("/v1/chat/completions", {**ASK, "stream": True}, headers=key)
        *events, _, _ = reply.body.split(b"\n\n")
        deltas = [json.loads(event.removeprefix(b"data: "))["choices"][0]["delta"] for event in events]
        assert "".join(delta.get("refusal", "") for delta in deltas) == "I cannot."
        assert "".join(delta.get("content", "") for delta in deltas) == ""


async def test_a5_parse_of_openais_library_understands_it(online: Api) -> None:
    base_url = str(online.client.make_url("/v1"))
    async with AsyncOpenAI(base_url=base_url, api_key=online.token or "", max_retries=0) as client:
        answer = await client.chat.completions.parse(
            model="default", messages=[{"role": "user", "content": "hello"}], response_format=Person
        )
    message = answer.choices[0].message
    assert (message.refusal, message.parsed, message.content) == ("I cannot.", None, None)
