"""Text, ends and failures in other forms than OpenAI's, as providers send them."""

from typing import Any

import pytest

from server.model_request import Usage
from tests.fakes.huggingface import event
from tests.fixtures.deciphering import DONE, choice, completed, document, failed


@pytest.mark.parametrize("reason", ["error", "network_error", "ERROR", "abort", "insufficient_system_resource"])
def test_a4_a_reason_that_reports_a_failure_is_one(reason: str) -> None:
    failure = failed(choice(content="half"), choice(reason), DONE)
    assert failure.output_data == {"output": "half", "partial": True}
    assert not failure.error.is_transient
    assert failed(choice(reason), DONE).error.is_transient
    assert failed(document({"choices": [{"message": {"content": ""}, "finish_reason": reason}]})).error.is_transient


def test_a4_the_error_of_a_choice_is_told() -> None:
    body = event({"choices": [{"delta": {}, "finish_reason": "error", "error": {"code": 400, "message": "Too long"}}]})
    assert failed(body.replace(b'"error", "error"', b'null, "error"'), DONE).error.status == 400
    failure = failed(body, DONE)
    assert (failure.error.status, failure.error.is_transient) == (400, False)
    assert "Too long" in failure.error.message


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("eos", "stop"),
        ("end_turn", "stop"),
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("content-filter", "content_filter"),
        ("contentFilter", "content_filter"),
        ("sensitive", "content_filter"),
        ("RECITATION", "content_filter"),
        ("max_new_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ({"type": "length"}, "length"),
        (1, None),
        ("null", None),
        ("odd", "odd"),
    ],
)
def test_a4b_reasons_have_openai_s_names(reason: Any, kept: str | None) -> None:
    assert completed(choice(content="a"), choice(reason), DONE).output_data["finish_reason"] == kept


@pytest.mark.parametrize("data", [b": OPENROUTER PROCESSING", b":", b"null", b" null ", b"true", b'"x"', b"[]"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a7_data_that_says_nothing_is_skipped(data: bytes, place: int) -> None:
    pieces = [choice(content="a"), choice("stop", content="b"), DONE]
    pieces.insert(place, b"data: " + data + b"\n\n")
    assert completed(*pieces).output_data["output"] == "ab"


def test_a7_the_data_of_a_ping_says_nothing() -> None:
    pings = b"event: ping\ndata: 2026-11-29 10:00:00\n\n", b"event: heartbeat\ndata: still here\n\n"
    assert completed(pings[0], choice(content="a"), pings[1], choice("stop", content="b")).output_data["output"] == "ab"
    assert failed(b"data: still here\n\n", choice("stop", content="b")).error.is_transient


@pytest.mark.parametrize("field", [b" data: ", b"Data: ", b"data: data: ", b"data:data:", b""])
def test_a8_a_field_may_be_spelled_in_other_ways(field: bytes) -> None:
    body = b"".join([choice(content="a"), choice("stop", content="b"), DONE]).replace(b"data: ", field)
    assert completed(b"data: null\n\n" + body).output_data["output"] == "ab"


def test_a8_an_error_in_the_middle_may_lack_its_field_or_be_words() -> None:
    for error in (b'{"error": {"message": "no luck"}}\n\n', b"event: error\ndata: no luck\n\n"):
        failure = failed(choice(content="a"), error)
        assert "no luck" in failure.error.message
        assert failure.output_data == {"output": "a", "partial": True}


@pytest.mark.parametrize("body", [b"%b\n%b\n", b"[%b, %b]"])
def test_a8_chunks_in_lines_or_in_an_array_are_an_answer(body: bytes) -> None:
    chunks = choice(content="a"), choice("stop", content="b")
    assert completed(body % tuple(chunk.removeprefix(b"data: ").strip() for chunk in chunks)).output_data == {
        "output": "ab",
        "finish_reason": "stop",
    }


@pytest.mark.parametrize("index", ["0", 0.0, None, 1])
def test_the_first_choice_is_the_answer_however_it_is_numbered(index: Any) -> None:
    numbered = [event({"choices": [{"index": index, "delta": {"content": text}}]}) for text in ("a", "b")]
    other = event({"choices": [{"index": 2, "delta": {"content": "no"}}]})
    assert completed(numbered[0], other, numbered[1], choice("stop", index=1), DONE).output_data["output"] == "ab"


@pytest.mark.parametrize("texts", [("hel", "lo"), ("hel", "hello"), ("hello", "hello"), ("hel", "lo", "hello")])
def test_a_stream_of_messages_is_joined(texts: tuple[str, ...]) -> None:
    pieces = [event({"choices": [{"index": 0, "message": {"content": text}}]}) for text in texts]
    assert completed(*pieces, choice("stop"), DONE).output_data["output"] == "hello"
    assert completed(choice(content="hello"), *pieces, choice("stop"), DONE).output_data["output"] == "hello"


@pytest.mark.parametrize(
    "content", [{"type": "text", "text": "ab"}, ["a", "b"], [{"type": "output_text", "text": "ab"}]]
)
def test_a3_content_may_be_an_object_or_texts(content: Any) -> None:
    assert completed(choice("stop", content=content), DONE).output_data["output"] == "ab"


THOUGHTS: list[dict[str, Any]] = [
    {"reasoning": {"content": "hm"}},
    {"reasoning": "hm", "reasoning_content": ""},
    {"reasoning_text": "hm"},
    {"thinking": "hm"},
    {"reasoning_details": [{"type": "reasoning.summary", "summary": "hm"}]},
    {"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
    {"thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "c2ln"}]},
    {"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}]},
    {"content": [{"type": "thinking", "text": "hm"}]},
]


@pytest.mark.parametrize("delta", THOUGHTS)
def test_a3_reasoning_is_found_in_every_place(delta: dict[str, Any]) -> None:
    data = completed(choice(**delta), choice("stop", content="ah"), DONE).output_data
    assert (data.get("reasoning"), data["output"]) == ("hm", "ah")


def lines(*pieces: bytes) -> bytes:
    """Events without the blank lines between them."""
    return b"".join(piece.removesuffix(b"\n") for piece in pieces)


def test_a8_documents_in_the_lines_of_one_event_are_understood() -> None:
    pieces: list[Any] = [choice(content="a"), choice("stop", content="b"), DONE]
    for body in (lines(*pieces[:2]) + b"\n" + DONE, lines(*pieces) + b"\n", lines(*pieces), lines(*pieces)[:-1]):
        assert completed(body).output_data == {"output": "ab", "finish_reason": "stop"}


def test_a8_an_error_in_the_lines_of_one_event_ends_the_answer() -> None:
    failure = failed(lines(choice(content="a"), event({"error": "no luck"}), choice(content="b")) + b"\n")
    assert failure.output_data == {"output": "a", "partial": True}


@pytest.mark.parametrize("thinking", ["hm", [{"type": "text", "text": "h"}, {"type": "text", "text": "m"}]])
def test_a3_thoughts_among_the_parts_of_the_content_are_reasoning(thinking: Any) -> None:
    parts = [{"type": "thinking", "thinking": thinking}, {"type": "text", "text": "ah"}]
    data = completed(choice("stop", content=parts), DONE).output_data
    assert (data["reasoning"], data["output"]) == ("hm", "ah")


@pytest.mark.parametrize("last", [choice("stop"), choice("content_filter"), b""])
def test_a5_a_refusal_is_text(last: bytes) -> None:
    pieces = choice(content=None, refusal="I can"), choice(content="", refusal="not."), last, DONE
    assert completed(*pieces).output_data["output"] == "I cannot."
    assert completed(choice("stop", content=[{"type": "refusal", "refusal": "No."}])).output_data["output"] == "No."


def usage_of(*usages: Any) -> Usage:
    return completed(choice("stop", content="a"), *(event({"choices": [], "usage": one}) for one in usages)).usage


def test_u1_zeros_do_not_replace_counts() -> None:
    zeros = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert usage_of({"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}, zeros) == Usage(6, 1)
    assert usage_of(zeros) == Usage(0, 0)


def test_u1_counts_that_come_apart_are_put_together() -> None:
    true = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
    assert usage_of({"prompt_tokens": 5}, {"completion_tokens": 1}) == Usage(6, 1)
    for later in ({"total_tokens": 6}, {"prompt_tokens": 5}, {"prompt_tokens": None}, {"completion_tokens": -1}, {}):
        assert usage_of(true, later) == Usage(6, 1)
    assert usage_of({"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 0}) == Usage(6, 1)
    assert usage_of({"prompt_tokens": 5, "total_tokens": 6}) == Usage(6, 1)


@pytest.mark.parametrize(
    ("count", "read"),
    [(12.0, 12), ("12", 12), ("12.0", 12), ("many", None), (12.5, None), (float("nan"), None), (1e300, None)],
)
def test_u2_a_count_may_be_a_float_or_a_text(count: Any, read: int | None) -> None:
    assert usage_of({"completion_tokens": count}) == Usage(None, read)


def test_u5_usage_of_a_choice_is_read() -> None:
    counts = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
    body = event({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop", "usage": counts}]})
    assert completed(body, DONE).usage == Usage(6, 1)
    early = event({"choices": [{"index": 0, "delta": {"content": "a"}, "usage": counts}]})
    assert completed(early, choice("stop"), DONE).usage == Usage(6, 1)
    assert completed(choice("stop", content="a", usage=counts), DONE).usage == Usage(6, 1)
    groq = event({"choices": [], "x_groq": {"id": "r", "usage": counts}})
    assert completed(choice("stop", content="a"), groq, DONE).usage == Usage(6, 1)


def test_u3_the_names_of_the_newer_protocol_are_read() -> None:
    usage = usage_of({"input_tokens": 5, "output_tokens": 1, "input_tokens_details": {"cached_tokens": "3"}})
    assert usage == Usage(6, 1, details={"prompt_tokens_details": {"cached_tokens": 3}})


def test_u6_reasoning_that_is_counted_apart_is_generated() -> None:
    assert usage_of({"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135}) == Usage(135, 103)
