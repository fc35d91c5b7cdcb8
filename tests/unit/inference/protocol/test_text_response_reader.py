"""Answers that the recordings do not have: broken, hostile, or of providers that come later."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.encoding import dumps
from server.inference.events import Delta, Segment, Started
from server.inference.protocol import Failure, TextResponseReader
from server.inference.protocol.text_response_reader import MAX_BODY_BYTES, MAX_STREAM_BYTES
from server.model_request import Completed, Usage
from tests.fakes.huggingface import chat_answer, event
from tests.fixtures.deciphering import DONE, EVENT_STREAM, choice, completed, decipher, document, failed, joined

TEXT = st.text(alphabet=st.characters(codec="utf-16", categories=None))


def test_started_comes_just_before_the_first_text() -> None:
    decipherer = TextResponseReader(200, {**EVENT_STREAM, "X-Inference-Provider": "novita"}, model="org/model")
    assert decipherer.feed(choice(role="assistant")) == []
    assert decipherer.feed(choice(content="a")) == [Started("org/model", "novita"), Delta("a")]
    assert decipherer.feed(choice(content="b")) == [Delta("b")]


def test_a_completion_without_text_is_started_too() -> None:
    assert [type(item) for item in decipher(choice(finish="stop"), DONE)] == [Started, Completed]


def test_the_end_of_the_stream_is_known_before_the_end_of_the_body() -> None:
    decipherer = TextResponseReader(200, EVENT_STREAM)
    decipherer.feed(choice(content="a", finish="stop"))
    assert not decipherer.is_over
    decipherer.feed(DONE)
    assert decipherer.is_over
    assert decipherer.feed(choice(content="late")) == []


def test_an_odd_provider_name_is_not_passed_on() -> None:
    data = completed(choice("stop", content="a"), **{"x-inference-provider": "<b>x</b>"}).output_data
    assert data == {"output": "a", "finish_reason": "stop"}


@pytest.mark.parametrize("finish", ["stop", "length", "content_filter", "tool_calls"])
def test_the_finish_reason_is_kept(finish: str) -> None:
    assert completed(choice(content="a"), choice(finish=finish)).output_data["finish_reason"] == finish


def test_a_stream_that_ends_without_an_end_is_partial_and_never_a_stop() -> None:
    failure = failed(choice(content="half an ans"))
    assert failure.output_data == {"output": "half an ans", "partial": True}
    assert not failure.error.is_transient
    assert failure.error.message == "The model's answer broke off before its end."


def test_a_cut_after_the_finish_reason_loses_nothing() -> None:
    assert completed(choice("stop", content="whole"), b"data: {", cut=True).output_data["output"] == "whole"


def test_a_cut_before_any_text_may_be_tried_again() -> None:
    failure = failed(choice(role="assistant"), cut=True)
    assert failure.error.is_transient
    assert failure.output_data is None


def test_an_error_in_the_middle_keeps_what_came_before_it() -> None:
    error = event({"error": {"message": "Internal server error", "type": "server_error"}})
    failure = failed(choice(content="half"), error, DONE)
    assert failure.output_data == {"output": "half", "partial": True}
    assert not failure.error.is_transient
    assert failure.error.message.endswith("Internal server error.")


@pytest.mark.parametrize(
    ("error", "status", "is_transient"),
    [
        ({"error": {"message": "x", "http_status_code": 422}}, 422, False),
        ({"error": {"message": "x", "code": 400}}, 400, False),
        ({"error": {"message": "x", "code": "503"}}, 503, True),
        ({"error": {"message": "x", "type": "invalid_request_error"}}, 400, False),
        ({"error": {"message": "x", "code": "rate_limit_exceeded"}}, 429, True),
        ({"error": {"message": "x", "code": 7}}, 500, True),
        ({"error": "x", "error_type": "validation"}, 422, False),
        ({"error": "x", "error_type": "generation"}, 424, True),
        ({"error": "x"}, 500, True),
        ({"object": "error", "message": "x", "type": "BadRequestError", "code": 400}, 400, False),
        ({"detail": "x"}, 500, True),
        ([{"error": {"message": "x", "code": 404}}], 404, False),
    ],
)
@pytest.mark.parametrize("is_streamed", [True, False])
def test_an_error_under_200_is_judged_by_what_it_says(
    error: Any, *, status: int, is_transient: bool, is_streamed: bool
) -> None:
    failure = failed(event(error) if is_streamed else document(error))
    assert (failure.error.status, failure.error.is_transient) == (status, is_transient)
    assert failure.error.message.endswith(": x.")


def test_an_event_named_error_is_one_whatever_its_data() -> None:
    assert "no luck" in failed(b"event: error\n" + event({"message": "no luck"})).error.message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  \r\n ",
        DONE,
        event({"choices": []}) + DONE,
        choice(role="assistant", content="") + DONE,
        document({"choices": []}),
        document({"choices": None}),
    ],
)
def test_nothing_at_all_is_an_empty_completion_and_may_be_tried_again(body: bytes) -> None:
    failure = failed(body)
    assert failure.error.is_transient
    assert "empty completion" in failure.error.message


@pytest.mark.parametrize(
    "body",
    [
        b"null",
        b"[]",
        b"17",
        b'"text"',
        b"{}",
        b'{"foo":1}',
        b'{"choices":[{"index":0,"message":',
        b'{"choices":1.5}',
        b'data: {"choices":{"a":1}}\n\n',
        b"hello",
        b"data: {broken\n\n",
        b"data: null\n\n",
        b"[" * 100_000,
        b'{"choices":' * 5000,
        b'{"a":' + b"9" * 5000 + b"}",
        b"<!DOCTYPE html><html><body>We are away</body></html>",
    ],
)
def test_what_cannot_be_read_is_an_outage_and_not_an_answer(body: bytes) -> None:
    failure = failed(body)
    assert failure.error.is_transient
    assert failure.output_data is None
    assert "away" not in failure.error.message


def test_a_stream_in_place_of_a_document_is_understood() -> None:
    answer = chat_answer("a", "b")
    assert completed(answer.body, **{"content-type": "application/json"}).output_data["output"] == "ab"


def test_a_document_in_place_of_a_stream_is_understood() -> None:
    whole = document({"choices": [{"index": 0, "message": {"content": "ab"}, "finish_reason": "stop"}]})
    events = decipher(b"\xef\xbb\xbf\n " + whole)
    assert events[:2] == [Started("org/model"), Delta("ab")]


def test_a_whole_message_at_the_end_of_a_stream_is_not_counted_twice() -> None:
    last = event({"choices": [{"index": 0, "message": {"content": "ab"}, "finish_reason": "stop"}]})
    assert completed(choice(content="a"), choice(content="b"), last).output_data["output"] == "ab"


def test_only_the_first_choice_counts() -> None:
    assert completed(choice(content="a"), choice(index=1, content="other"), choice("stop")).output_data["output"] == "a"


def test_content_in_parts_is_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}]
    assert completed(choice("stop", content=parts)).output_data["output"] == "ab"


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}, Usage(5, 2)),
        ({"prompt_tokens": 3, "completion_tokens": 2}, Usage(5, 2)),
        ({"completion_tokens": 2}, Usage(None, 2)),
        ({"total_tokens": 5}, Usage(5, None)),
        ({"completion_tokens": -1, "total_tokens": 2**31}, Usage(None, None)),
        ({"completion_tokens": True, "total_tokens": 5.5}, Usage(None, None)),
        ({"prompt_tokens": 2**31 - 1, "completion_tokens": 1}, Usage(None, 1)),
        ("many", Usage(None, None)),
        (None, Usage(None, None)),
    ],
)
def test_usage_is_what_upstream_counted_or_unknown(usage: Any, expected: Usage) -> None:
    last = completed(choice("stop", content="a"), event({"choices": [], "usage": usage}), DONE)
    assert last.usage == expected


def test_unknown_usage_does_not_replace_a_known_one() -> None:
    known = event({"choices": [], "usage": {"completion_tokens": 2, "total_tokens": 5}})
    assert completed(known, choice("stop", content="a"), event({"choices": [], "usage": None})).usage == Usage(5, 2)


def test_text_that_came_before_what_cannot_be_read_is_in_the_deltas_too() -> None:
    calls = [{"index": number, "function": {"name": "f"}} for number in range(1000)]
    events = decipher(choice(content="half", tool_calls=calls))
    assert events[-1].output_data["output"] == joined(events, Segment.OUTPUT) == "half"


@pytest.mark.parametrize("split_at", [1, 2])
def test_raw_tokens_are_given_out_when_their_full_text_never_comes(split_at: int) -> None:
    tokens = [event({"token": {"text": text, "special": text == "</s>"}}) for text in ("a", " b", "</s>")]
    failure = failed(b"".join(tokens[:split_at]), b"".join(tokens[split_at:]))
    assert failure.output_data == {"output": "a b", "partial": True}


def test_a_pair_of_surrogates_split_between_events_is_one_character() -> None:
    body = b'data: {"choices":[{"index":0,"delta":{"content":"a\\ud83d"}}]}\n\n'
    body += b'data: {"choices":[{"index":0,"delta":{"content":"\\ude00b"},"finish_reason":"stop"}]}\n\n'
    events = decipher(body)
    assert events[1:3] == [Delta("a"), Delta("😀b")]
    assert "cleaned" not in events[-1].output_data


@pytest.mark.parametrize("escape", [b"\\u0000", b"\\ud83d", b"\\ude00", b"\0"])
def test_what_postgres_cannot_store_is_replaced_and_said(escape: bytes) -> None:
    body = b'data: {"choices":[{"index":0,"delta":{"content":"a' + escape + b'"},"finish_reason":"stop"}]}\n\n'
    assert completed(body).output_data == {"output": "a\ufffd", "finish_reason": "stop", "cleaned": True}


@given(st.lists(TEXT, max_size=5), TEXT)
def test_whatever_comes_can_be_stored_and_equals_its_deltas(texts: list[str], name: str) -> None:
    pieces = [choice(content=text) for text in texts]
    call = {"index": 0, "id": name, "function": {"name": name, "arguments": name}}
    events = decipher(*pieces, choice(name, tool_calls=[call]), DONE)
    stored = orjson.dumps(dict(events[-1].output_data))
    assert b"\\u0000" not in stored
    assert events[-1].output_data["output"] == joined(events, Segment.OUTPUT)
    arguments = events[-1].output_data["tool_calls"][0]["function"]["arguments"]
    assert arguments == joined(events, Segment.TOOL_CALL)


def test_broken_utf_8_does_not_break_the_answer() -> None:
    body = b'data: {"choices":[{"index":0,"delta":{"content":"a\xff"},"finish_reason":"stop"}]}\n\n'
    assert completed(body).output_data["output"] == "a\ufffd"


def test_a_line_beyond_all_measure_ends_the_answer_and_keeps_what_came() -> None:
    failure = failed(choice(content="half"), b"data: " + b"x" * MAX_BODY_BYTES)
    assert failure.output_data == {"output": "half", "partial": True}
    assert "larger" in failure.error.message


def test_a_body_beyond_all_measure_is_not_kept_in_memory() -> None:
    decipherer = TextResponseReader(200, EVENT_STREAM)
    decipherer.feed(b'{"choices": [')
    block = b" " * (1024 * 1024)
    fed = 0
    while not decipherer.is_over:
        decipherer.feed(block)
        fed += len(block)
    assert fed <= MAX_BODY_BYTES + len(block)
    last = decipherer.finish()[-1]
    assert isinstance(last, Failure)
    assert not last.error.is_transient


def test_a_stream_of_many_small_events_may_be_longer_than_what_is_kept_of_it() -> None:
    reader = TextResponseReader(200, EVENT_STREAM)
    padded = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}],"pad":"' + b"x" * 600_000 + b'"}\n\n'
    count = MAX_BODY_BYTES // len(padded) + 2
    for _ in range(count):
        reader.feed(padded)
    assert not reader.is_over
    while not reader.is_over:
        reader.feed(padded)
        count += 1
    assert MAX_STREAM_BYTES < count * len(padded) <= MAX_STREAM_BYTES + len(padded)


@pytest.mark.parametrize(
    "said",
    [
        {"delta": {"content": "a" * 600_000}},
        {"delta": {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "a" * 600_000}}]}},
        {"delta": {"content": "a"}, "logprobs": {"content": [{"token": "a" * 600_000}]}},
    ],
    ids=["text", "arguments", "probabilities"],
)
def test_what_is_kept_of_a_stream_is_bounded(said: dict[str, Any]) -> None:
    reader = TextResponseReader(200, EVENT_STREAM)
    piece = event({"choices": [{"index": 0, **said}]})
    fed = 0
    while not reader.is_over:
        reader.feed(piece)
        fed += len(piece)
    assert fed < MAX_BODY_BYTES + 2 * len(piece)
    failure = reader.finish()[-1]
    assert isinstance(failure, Failure)
    assert "larger" in failure.error.message


def test_probabilities_are_joined_and_can_be_stored() -> None:
    pieces = [
        {"content": [{"token": "a\0", "logprob": -0.5}], "refusal": None},
        {"content": None},
        {"content": [{"token": "\ud83d"}]},
        ["x"],
        {"content": [{"token": "b", "logprob": float("-inf")}], "tokens": [2**70]},
    ]
    events = [event({"choices": [{"index": 0, "delta": {"content": "x"}, "logprobs": piece}]}) for piece in pieces]
    done = decipher(*events, choice(finish="stop"), DONE)[-1]
    assert orjson.loads(dumps(done.output_data))["logprobs"] == {
        "content": [{"token": "a\ufffd", "logprob": -0.5}, {"token": "b", "logprob": None}]
    }


def test_of_a_long_error_only_the_beginning_is_read() -> None:
    decipherer = TextResponseReader(500, {})
    for _ in range(100):
        decipherer.feed(b"x" * 1024)
    assert decipherer.is_over
    last = decipherer.finish()[-1]
    assert isinstance(last, Failure)
    assert len(last.error.message) < 700
