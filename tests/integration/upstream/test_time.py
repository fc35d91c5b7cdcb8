"""How long the shell waits for what."""

import asyncio

from tests.fakes.huggingface import (
    Answer,
    End,
    chat_answer,
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
