"""An answer whose reasoning has a closing tag only: where it ends, and what readers of the stream get."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.acceptance.conftest import Api, Start, created, events_of
from tests.acceptance.openai_upstream import start_online
from tests.fakes.event_source import Told, final_of
from tests.fakes.huggingface import FakeHuggingFace, chat_answer, json_answer

PATH = "/v1/chat/completions"
ASK: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": "hello"}]}
PIECES = ("internal", " reasoning</thi", "nk>answer")
SPLIT = {"reasoning": "internal reasoning", "output": "answer"}


@pytest.fixture
async def upstream() -> AsyncIterator[FakeHuggingFace]:
    async with FakeHuggingFace() as fake:
        yield fake


@pytest.fixture
async def online(start: Start, upstream: FakeHuggingFace) -> Api:
    return await start_online(start, upstream)


def texts_of(events: list[Told]) -> dict[str, str]:
    """The texts of a reader that obeys every `reset`."""
    texts: dict[str, str] = {}
    for told in events:
        if told.name == "reset":
            texts.clear()
        elif told.name == "delta":
            texts[told.data["segment"]] = texts.get(told.data["segment"], "") + told.data["text"]
    return texts


def kept(request: dict[str, Any]) -> dict[str, str]:
    return {name: request["output_data"].get(name) for name in SPLIT}


@pytest.mark.parametrize(
    ("pieces", "split"),
    [
        (PIECES, SPLIT),
        (("internal reasoning</think>answer",), SPLIT),
        (("internal\nreasoning\n</think>", "\n\nanswer"), {"reasoning": "internal\nreasoning", "output": "answer"}),
        (("Close it with `</thi", "nk>` then."), {"reasoning": None, "output": "Close it with `</think>` then."}),
        (("```\na</think>\n", "```"), {"reasoning": None, "output": "```\na</think>\n```"}),
        (("<think>a</think>b", "</think>c"), {"reasoning": "a", "output": "b</think>c"}),
    ],
)
async def test_a1_a_lone_closing_tag_ends_the_reasoning(
    online: Api, upstream: FakeHuggingFace, pieces: tuple[str, ...], split: dict[str, str | None]
) -> None:
    upstream.answer(chat_answer(*pieces))
    assert kept((await online.create()).json) == split


async def test_a1_a_whole_answer_is_split_too(online: Api, upstream: FakeHuggingFace) -> None:
    message = {"role": "assistant", "content": "".join(PIECES)}
    upstream.answer(json_answer({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}))
    async with created(online) as source:
        events = await source.all()
    assert kept(final_of(events).data) == texts_of(events) == SPLIT
    assert "reset" not in [told.name for told in events]


async def test_a1_readers_of_a_stream_get_a_reset_and_the_text_as_it_is_stored(
    online: Api, upstream: FakeHuggingFace
) -> None:
    upstream.answer(chat_answer(*PIECES))
    async with created(online) as source:
        events = await source.all()
    assert kept(final_of(events).data) == texts_of(events) == SPLIT
    names = [told.name for told in events]
    assert names.count("reset") == 1
    path = f"/api/requests/{final_of(events).data['id']}/events"
    first = next(told for told in events if told.name == "delta")
    async with events_of(online, path) as source:
        anew = await source.all()
    async with events_of(online, f"{path}?after={first.id}") as source:
        resumed = await source.all()
    assert texts_of(anew) == texts_of(resumed) == SPLIT
    assert resumed[0].name == "reset"
    assert "reset" not in [told.name for told in anew]
    middle = next(told for told in reversed(events) if told.name == "delta")
    async with events_of(online, f"{path}?after={middle.id}") as source:
        assert [told.name for told in await source.all()] == ["completed"]
    assert (await online.get(f"{path}?after={final_of(events).id}")).status == 204


async def test_a1_a_stream_of_openai_goes_on_to_its_end(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(chat_answer(*PIECES), chat_answer(*PIECES))
    reply = await online.post(PATH, {**ASK, "stream": True})
    *events, done, _ = reply.body.split(b"\n\n")
    choices = [json.loads(event.removeprefix(b"data: "))["choices"][0] for event in events]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "".join(PIECES)
    assert (choices[-1]["finish_reason"], done) == ("stop", b"data: [DONE]")
    message = (await online.post(PATH, ASK)).json["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("answer", "internal reasoning")
