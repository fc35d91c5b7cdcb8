"""How long the shell waits for what."""

import asyncio

import pytest

from server.model_request import Usage
from tests.fakes.huggingface import (
    Answer,
    End,
    chat_answer,
    event,
)
from tests.integration.upstream.generations import Client, Connect


async def test_an_upstream_that_never_answers_is_given_up(connect: Connect) -> None:
    client = connect(timeout_s=1, max_retries=1)  # enough for the connection of the first try, on a busy machine too
    client.fake.default = lambda _: Answer(end=End.STALL, is_silent=True)
    failed = await client.fail()
    assert failed.transient
    assert failed.message == "The model did not answer within 1 s."
    assert len(client.fake.calls) == 2


async def test_the_deadline_of_the_request_comes_before_that_of_a_try(client: Client) -> None:
    client.fake.default = lambda _: Answer(end=End.STALL, is_silent=True)
    started = asyncio.get_running_loop().time()
    failed = await client.fail(timeout_s=0.5)
    assert asyncio.get_running_loop().time() - started < 5
    assert failed.transient
    assert len(client.fake.calls) == 1


async def test_an_answer_that_stalls_is_given_up_after_the_gap(connect: Connect) -> None:
    client = connect(gap_s=0.1)
    client.fake.answer(Answer(200, {}, chat_answer("half").pieces[:2], end=End.STALL))
    failed = await client.fail()
    assert failed.message == "The model did not go on with its answer within 0.1 s."
    assert failed.output_data == {"output": "half", "partial": True}
    assert not failed.transient


async def test_the_first_byte_may_take_longer_than_the_gap(connect: Connect) -> None:
    client = connect(gap_s=0.05)
    client.fake.answer(Answer(200, {}, chat_answer("late").pieces, delay_s=0.2))
    assert (await client.complete()).output_data["output"] == "late"


async def test_a_drip_does_not_outlive_the_time_of_a_try(connect: Connect) -> None:
    client = connect(timeout_s=0.3)
    client.fake.answer(Answer(200, {}, chat_answer(*["drop "] * 500).pieces, pause_s=0.02))
    failed = await client.fail()
    assert failed.message == "The model did not finish its answer within 0.3 s."
    assert failed.output_data is not None
    assert failed.output_data["output"].startswith("drop drop ")


async def test_a_stream_whose_end_is_known_is_not_waited_for(connect: Connect) -> None:
    client = connect(gap_s=20)
    client.fake.answer(Answer(200, {}, chat_answer("a").pieces, end=End.STALL))
    async with asyncio.timeout(2):
        await client.complete()


USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
COMPLETE = event({"choices": [{"index": 0, "delta": {"content": "all"}, "finish_reason": "stop"}]})


@pytest.mark.parametrize(
    "pieces",
    [
        (COMPLETE, event({"choices": [], "usage": USAGE})),
        (event({"choices": [], "usage": USAGE}), COMPLETE),
        (COMPLETE, event({"choices": [], "usage": USAGE}), *[b": alive\n\n"] * 100),
    ],
)
async def test_a9_after_finish_and_usage_the_end_is_not_waited_for(connect: Connect, pieces: tuple[bytes, ...]) -> None:
    client = connect(gap_s=20)
    client.fake.answer(Answer(200, {}, pieces, pause_s=0.1, end=End.STALL))
    async with asyncio.timeout(1.5):
        completed = await client.complete()
    assert (completed.output_data["output"], completed.usage) == ("all", Usage(7, 2))


async def test_a9_after_the_finish_usage_is_waited_for_a_few_seconds(connect: Connect) -> None:
    client = connect(gap_s=20, timeout_s=20)
    client.fake.answer(Answer(200, {}, (COMPLETE,), end=End.STALL))
    late_usage = (COMPLETE, event({"choices": [], "usage": USAGE}))
    client.fake.answer(Answer(200, {}, late_usage, pause_s=1.5, end=End.STALL))
    async with asyncio.timeout(10):
        assert (await client.complete()).usage == Usage()
        assert (await client.complete()).usage == Usage(7, 2)


async def test_a9_text_after_the_finish_is_not_cut_off(connect: Connect) -> None:
    client = connect(gap_s=20, timeout_s=20)
    client.fake.answer(Answer(200, {}, (COMPLETE,) * 12, pause_s=0.4, end=End.STALL))
    assert (await client.complete()).output_data["output"] == "all" * 12
