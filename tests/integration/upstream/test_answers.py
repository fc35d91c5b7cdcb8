"""What an answer becomes on its way through the shell, over real connections."""

import contextlib
from typing import Any

import pytest

from server.inference.events import Delta, GenerationFailed, Segment, Started, Task
from server.model_request import Completed, Usage
from tests.fakes.huggingface import (
    Answer,
    End,
    body_of,
    chat_answer,
    error_answer,
    json_answer,
    replay,
)
from tests.fakes.huggingface import event as sse
from tests.fakes.reader import read
from tests.fakes.tapes import exchanges
from tests.integration.upstream.generations import PROMPT, TOKEN, Client, Connect, call


async def test_a_stream_becomes_deltas_and_a_completion(client: Client) -> None:
    client.fake.answer(chat_answer("Rain", " falls."))
    started, *deltas, completed = await client.run()
    assert started == Started("org/first", "fake")
    assert deltas == [Delta("Rain"), Delta(" falls.")]
    output = {"output": "Rain falls.", "finish_reason": "stop", "provider": "fake"}
    assert completed == Completed(output, Usage(5, 2), "org/first")


async def test_deltas_come_as_they_are_sent(client: Client) -> None:
    client.fake.answer(Answer(200, {"Content-Type": "text/event-stream"}, chat_answer("a").pieces[:2], end=End.STALL))
    async with contextlib.aclosing(client.upstream.generate(call(), timeout_s=30)) as events:
        assert await anext(events) == Started("org/first")
        assert await anext(events) == Delta("a")


async def test_a_token_that_upstream_quotes_is_not_passed_on(connect: Connect) -> None:
    """Of whatever form: no pattern could know those of other servers."""
    client = connect(token="correct-horse")
    client.fake.answer(error_answer(400, "no credit for correct-horse here"))
    assert "no credit for [redacted] here" in (await client.fail()).message


async def test_the_call_has_the_token_and_names_itself(client: Client) -> None:
    client.fake.answer(chat_answer("a"))
    await client.run()
    [received] = client.fake.calls
    assert received.path == "/v1/chat/completions"
    assert received.headers["Authorization"] == f"Bearer {TOKEN}"
    assert received.headers["User-Agent"].startswith("ai-sdk-server/")
    assert received.headers["Accept-Encoding"] == "identity"
    assert received.body["messages"] == [{"role": "user", "content": PROMPT}]


async def test_raw_generation_is_asked_for_as_a_completion(client: Client) -> None:
    client.fake.answer(json_answer({"choices": [{"index": 0, "text": " and so on", "finish_reason": "length"}]}))
    completed = await client.complete(task=Task.TEXT_GENERATION)
    assert completed.output_data["output"] == " and so on"
    assert client.fake.calls[0].path == "/v1/completions"


async def test_without_a_token_none_is_sent(connect: Connect) -> None:
    client = connect(token=None)
    client.fake.answer(chat_answer("a"))
    await client.complete()
    assert "Authorization" not in client.fake.calls[0].headers


async def test_the_connection_is_used_again(client: Client) -> None:
    client.fake.answer(chat_answer("a"), json_answer({"choices": [{"message": {"content": "b"}}]}), chat_answer("c"))
    for _ in range(3):
        await client.complete()
    assert len(client.fake.connections) == 1


@pytest.mark.parametrize("record", exchanges())
async def test_an_exchange_means_the_same_over_a_real_connection(record: dict[str, Any], connect: Connect) -> None:
    expected = read(record)
    client = connect(max_retries=0)
    client.fake.answer(replay(record).split_awkwardly() if len(body_of(record)) < 5000 else replay(record))
    last = (await client.run())[-1]
    if expected.is_ok:
        assert isinstance(last, Completed)
        assert last.output_data["output"] == expected.text
        assert (last.usage.token_used, last.usage.token_count) == (expected.token_used, expected.token_count)
    else:
        assert isinstance(last, GenerationFailed)
        assert last.transient == expected.is_transient
        assert (expected.words or "The model provider") in last.message


async def test_reasoning_comes_in_its_own_segment(client: Client) -> None:
    thought = sse({"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]})
    client.fake.answer(Answer(200, {}, (thought, *chat_answer("ah").pieces)))
    events = await client.run()
    assert Delta("hm", Segment.REASONING) in events
