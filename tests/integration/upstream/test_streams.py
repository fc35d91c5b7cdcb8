"""Streams as upstreams really send them, cut at every place: the same text, and never an invented end."""

import asyncio
from typing import Any

import pytest

from server.inference.events import Delta, Event, GenerationFailed, Segment, Started
from server.model_request import Completed, Usage
from tests.fakes.huggingface import Answer, End, chat_answer
from tests.fakes.huggingface import event as sse
from tests.integration.upstream.generations import Client, Connect, call

HEADERS = {"Content-Type": "text/event-stream; charset=utf-8"}
TEXT = "Hé, 日本 😀"
END = sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
DONE = b"data: [DONE]\n\n"


def delta(text: str, **fields: Any) -> bytes:
    return sse({"choices": [{"index": 0, "delta": {"content": text}}], **fields})


def usage(completion: int) -> dict[str, int]:
    return {"prompt_tokens": 5, "completion_tokens": completion, "total_tokens": 5 + completion}


PLAIN = delta(TEXT[:4]) + delta(TEXT[4:]) + END + DONE
RAW = PLAIN.replace(rb"\u00e9", "é".encode()).replace(rb"\ud83d\ude00", "😀".encode())

GOOD = {
    "as documented": PLAIN,
    "without [DONE]": PLAIN.removesuffix(DONE),
    "characters of several bytes": RAW,
    "CRLF": PLAIN.replace(b"\n", b"\r\n"),
    "CR": PLAIN.replace(b"\n", b"\r"),
    "no space after data:": PLAIN.replace(b"data: ", b"data:"),
    "comments": b": hello\n\n" + PLAIN.replace(b"data: {", b":\n\n: keep-alive\n\ndata: {"),
    "other fields": PLAIN.replace(b"data: {", b"id: 7\nretry: 100\nevent: message\ndata: {"),
    "a byte order mark": b"\xef\xbb\xbf" + PLAIN,
    "no blank line at the end": PLAIN.removesuffix(DONE).removesuffix(b"\n\n"),
    "usage repeated": delta(TEXT[:4], usage=usage(1)) + delta(TEXT[4:], usage=usage(2)) + END + DONE,
    "usage without choices": PLAIN.replace(DONE, sse({"choices": [], "usage": usage(2)}) + DONE),
    "junk after [DONE]": PLAIN + delta("more") + b"data: {oops\n\n",
    "a long line": delta(TEXT, logprobs="x" * 900_000) + END + DONE,
}


@pytest.mark.parametrize("name", GOOD)
async def test_a_stream_is_read_whatever_its_dialect_and_its_chunks(client: Client, name: str) -> None:
    answer = Answer(200, HEADERS, (GOOD[name],))
    client.fake.answer(answer, *([answer.split_awkwardly()] if len(answer.body) < 5000 else []))
    while client.fake.queue:
        events = await client.run()
        completed = events[-1]
        assert isinstance(completed, Completed)
        assert completed.output_data["output"] == TEXT == text_of(events)
        assert completed.output_data["finish_reason"] == "stop"
        assert completed.usage == (Usage(7, 2) if "usage" in name else Usage())


@pytest.mark.parametrize("cut", range(1, len(RAW.removesuffix(END + DONE)), 7))
async def test_a_stream_that_ends_anywhere_before_its_end_is_no_success(client: Client, cut: int) -> None:
    client.fake.default = lambda _: Answer(200, HEADERS, (RAW[:cut],))
    events = await client.run()
    failed = events[-1]
    assert isinstance(failed, GenerationFailed)
    text = text_of(events)
    assert TEXT.startswith(text)
    assert failed.transient is (text == "")
    if text:
        assert failed.output_data == {"output": text, "partial": True}
        assert len(client.fake.calls) == 1


async def test_reasoning_and_tool_calls_are_kept_apart(client: Client) -> None:
    thought = sse({"choices": [{"index": 0, "delta": {"reasoning": "hm"}}]})
    client.fake.answer(Answer(200, HEADERS, (thought, *chat_answer("ah").pieces)))
    events = await client.run()
    assert Delta("hm", Segment.REASONING) in events
    assert text_of(events) == "ah"


async def test_who_is_slow_to_take_events_is_not_taken_for_a_silence(connect: Connect) -> None:
    client = connect(gap_s=0.1)
    client.fake.answer(Answer(200, HEADERS, chat_answer("a", "b", "c").pieces, pause_s=0.01))
    seen = []
    async for event in client.upstream.generate(call(), timeout_s=30):
        seen.append(event)
        await asyncio.sleep(0.15)
    assert (type(seen[0]), text_of(seen), type(seen[-1])) == (Started, "abc", Completed)


async def test_deltas_that_came_together_are_handed_on_together(client: Client) -> None:
    client.fake.answer(Answer(200, HEADERS, (b"".join(chat_answer("a", "b", "c").pieces),)))
    assert [event.text for event in await client.run() if isinstance(event, Delta)] == ["abc"]


async def test_a_silence_is_counted_from_when_it_is_waited_for(connect: Connect) -> None:
    client = connect(gap_s=0.2)
    client.fake.answer(Answer(200, HEADERS, chat_answer("a").pieces[:2], pause_s=0.0, end=End.STALL))
    events = client.upstream.generate(call(), timeout_s=30)
    await anext(events)
    await anext(events)
    await asyncio.sleep(0.3)
    began = asyncio.get_running_loop().time()
    failed = await anext(events)
    assert isinstance(failed, GenerationFailed)
    assert 0.15 < asyncio.get_running_loop().time() - began < 2


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta) and event.segment is Segment.OUTPUT)
