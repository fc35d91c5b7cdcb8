"""What is tried again and what is not, and which model is asked next."""

import json

import pytest
import structlog

from server.inference.events import Delta, GenerationFailed, Started
from server.inference.resilience import RetryBudget
from server.model_request import Completed
from tests.fakes.huggingface import (
    Answer,
    End,
    Received,
    chat_answer,
    error_answer,
    json_answer,
)
from tests.fakes.huggingface import event as sse
from tests.integration.upstream.generations import MODELS, PROMPT, TOKEN, Client, Connect


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_an_outage_is_tried_again_and_the_user_sees_one_success(client: Client, status: int) -> None:
    client.fake.answer(error_answer(status), chat_answer("fine"))
    assert (await client.complete()).output_data["output"] == "fine"
    assert client.sleep.pauses == [0.5]
    assert client.upstream.retries.values == {(str(status),): 1}


async def test_an_outage_that_lasts_is_transient_and_bounded(client: Client) -> None:
    client.fake.default = lambda _: error_answer(503, "overloaded")
    failed = await client.fail()
    assert failed.transient
    assert failed.message == "The model provider cannot answer at the moment (503): overloaded."
    assert len(client.fake.calls) == 4
    assert client.sleep.pauses == [0.5, 1.0, 2.0]


async def test_no_retries_are_made_where_none_are_wanted(connect: Connect) -> None:
    client = connect(max_retries=0)
    client.fake.default = lambda _: error_answer(503)
    assert (await client.fail()).transient
    assert len(client.fake.calls) == 1


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 410, 413, 422])
async def test_a_refusal_is_not_tried_again(client: Client, status: int) -> None:
    client.fake.default = lambda _: error_answer(status, "so it is")
    failed = await client.fail()
    assert not failed.transient
    assert "so it is" in failed.message
    assert len(client.fake.calls) == 1


@pytest.mark.parametrize("body", [b"data: [DONE]\n\n", b"", b"null", b"<html>away</html>", b'{"choices": ['])
async def test_a_success_that_is_none_is_tried_again(client: Client, body: bytes) -> None:
    client.fake.answer(Answer(200, {"Content-Type": "text/event-stream"}, (body,)), chat_answer("fine"))
    assert (await client.complete()).output_data["output"] == "fine"


@pytest.mark.parametrize("end", [End.CUT, End.RESET])
async def test_an_answer_that_breaks_before_any_text_is_tried_again(client: Client, end: End) -> None:
    broken = Answer(200, {"Content-Type": "text/event-stream"}, chat_answer().pieces[:1], end=end)
    client.fake.answer(broken, chat_answer("fine"))
    assert (await client.complete()).output_data["output"] == "fine"
    assert client.upstream.retries.values == {("no_answer",): 1}


async def test_a_document_that_breaks_off_is_tried_again_and_never_stored(client: Client) -> None:
    client.fake.answer(Answer(200, {}, (b'{"choices":[{"message":{"content":"ha',), end=End.CUT), chat_answer("whole"))
    assert (await client.complete()).output_data["output"] == "whole"


@pytest.mark.parametrize("end", [End.CUT, End.RESET])
async def test_text_that_breaks_off_is_partial_and_not_tried_again(client: Client, end: End) -> None:
    client.fake.answer(Answer(200, {}, chat_answer("half", " an", " answer").pieces[:3], pause_s=0.02, end=end))
    *events, failed = await client.run()
    assert isinstance(failed, GenerationFailed)
    assert not failed.transient
    assert failed.output_data == {"output": "half an", "partial": True}
    assert failed.model == "org/first"
    assert [event.text for event in events if isinstance(event, Delta)] == ["half", " an"]
    assert len(client.fake.calls) == 1


async def test_an_error_in_the_stream_before_any_text_is_judged_like_a_status(client: Client) -> None:
    pieces = (chat_answer().pieces[0], sse({"error": {"message": "overloaded", "code": 503}}))
    client.fake.answer(Answer(200, {}, pieces), chat_answer("fine"))
    assert [type(event) for event in await client.run()] == [Started, Delta, Completed]


@pytest.mark.parametrize(("header", "pause_s"), [("2", 2.2), ("0", 0.0), ("-5", 0.5), ("soon", 0.5)])
async def test_retry_after_is_honoured(client: Client, header: str, pause_s: float) -> None:
    client.fake.answer(error_answer(429, headers={"Retry-After": header}), chat_answer("fine"))
    await client.complete()
    assert client.sleep.pauses == [pytest.approx(pause_s)]


@pytest.mark.parametrize("header", ["60", "1e9", "Fri, 31 Dec 2100 00:00:00 GMT"])
async def test_a_long_retry_after_is_for_the_backlog(client: Client, header: str) -> None:
    client.fake.default = lambda _: error_answer(429, headers={"Retry-After": header})
    failed = await client.fail()
    assert failed.transient
    assert failed.retry_after_s is not None
    assert 60 <= failed.retry_after_s <= 600
    assert client.sleep.pauses == []


async def test_a_pause_longer_than_the_time_left_is_not_begun(client: Client) -> None:
    client.fake.default = lambda _: error_answer(429, headers={"Retry-After": "3"})
    assert (await client.fail(timeout_s=2)).retry_after_s == 3
    assert client.sleep.pauses == []


async def test_an_empty_budget_leaves_no_retries(connect: Connect) -> None:
    client = connect(budget=RetryBudget(capacity=1, per_second=0))
    client.fake.default = lambda _: error_answer(503)
    for _ in range(5):
        await client.fail()
    assert len(client.fake.calls) == 6


@pytest.mark.parametrize(
    "gone",
    [
        error_answer(404, "Not Found"),
        error_answer(410),
        error_answer(400, "Model not supported by provider hf-inference"),
        json_answer({"error": {"message": "x", "code": "model_not_supported"}}, status=400),
    ],
)
async def test_a_model_that_is_gone_makes_way_for_the_next(client: Client, gone: Answer) -> None:
    client.fake.answer(gone, chat_answer("fine"))
    completed = await client.complete(*MODELS)
    assert completed.model == "org/second"
    assert [received.model for received in client.fake.calls] == list(MODELS)
    assert client.sleep.pauses == [0.0]


async def test_a_provider_that_keeps_failing_makes_way_for_the_next_model(client: Client) -> None:
    def respond(received: Received) -> Answer:
        return error_answer(429) if received.model == "org/first" else chat_answer("fine")

    client.fake.default = respond
    assert (await client.complete(*MODELS)).model == "org/second"
    assert len(client.fake.calls) == 3


async def test_a_chain_of_which_nothing_is_left_fails_for_good(client: Client) -> None:
    client.fake.default = lambda _: error_answer(404, "Not Found")
    failed = await client.fail(*MODELS)
    assert not failed.transient
    assert failed.model == "org/second"


@pytest.mark.parametrize("busy", [error_answer(429), error_answer(503, headers={"Retry-After": "20"})])
async def test_a_model_that_is_gone_does_not_make_an_outage_of_another_final(client: Client, busy: Answer) -> None:
    gone = error_answer(404, "Not Found")
    client.fake.default = lambda received: busy if received.model == "org/first" else gone
    failed = await client.fail(*MODELS)
    assert failed.transient
    assert failed.model == "org/first"


async def test_an_impossible_model_is_not_asked_for(connect: Connect) -> None:
    client = connect(base_url="https://router.huggingface.co")
    failed = await client.fail("../..")
    assert not failed.transient
    assert "organisation/name" in failed.message


async def test_an_impossible_model_makes_way_for_the_next(connect: Connect) -> None:
    client = connect(base_url="https://router.huggingface.co")
    assert (await client.fail("../..", "b c/d")).model == "b c/d"


async def test_neither_token_nor_prompt_is_ever_logged_or_shown(client: Client) -> None:
    quoting = f"Bad key {TOKEN} for the input {PROMPT}"
    client.fake.answer(error_answer(503, quoting), error_answer(401, quoting))
    with structlog.testing.capture_logs() as logs:
        failed = await client.fail()
    assert TOKEN not in failed.message
    assert [entry["event"] for entry in logs] == ["upstream_retry"]
    assert not any(secret in json.dumps(logs) for secret in (TOKEN, PROMPT))
