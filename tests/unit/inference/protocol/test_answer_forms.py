"""Text, ends and failures in other forms than OpenAI's, as providers send them."""

from typing import Any

import pytest

from server.model_request import Usage
from tests.fakes.huggingface import event
from tests.fixtures.deciphering import DONE, choice, completed, document, failed


@pytest.mark.parametrize("reason", ["error", "network_error", "ERROR", "abort"])
def test_a4_a_reason_that_reports_a_failure_is_one(reason: str) -> None:
    failure = failed(choice(content="half"), choice(reason), DONE)
    assert failure.output_data == {"output": "half", "partial": True}
    assert not failure.error.is_transient
    assert failed(choice(reason), DONE).error.is_transient
    assert failed(document({"choices": [{"message": {"content": ""}, "finish_reason": reason}]})).error.is_transient


def test_a4_the_error_of_a_choice_is_told() -> None:
    body = event({"choices": [{"delta": {}, "finish_reason": "error", "error": {"code": 400, "message": "Too long"}}]})
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
        ("null", None),
        ("odd", "odd"),
    ],
)
def test_a4b_reasons_have_openai_s_names(reason: str, kept: str | None) -> None:
    assert completed(choice(content="a"), choice(reason), DONE).output_data["finish_reason"] == kept


@pytest.mark.parametrize("data", [b": OPENROUTER PROCESSING", b":", b"null", b" null "])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a7_data_that_says_nothing_is_skipped(data: bytes, place: int) -> None:
    pieces = [choice(content="a"), choice("stop", content="b"), DONE]
    pieces.insert(place, b"data: " + data + b"\n\n")
    assert completed(*pieces).output_data["output"] == "ab"


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


@pytest.mark.parametrize(("count", "read"), [(12.0, 12), (12.5, None), (float("nan"), None), (1e300, None)])
def test_u2_a_count_may_be_a_float(count: float, read: int | None) -> None:
    assert usage_of({"completion_tokens": count}) == Usage(None, read)


def test_u5_usage_of_a_choice_is_read() -> None:
    counts = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
    body = event({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop", "usage": counts}]})
    assert completed(body, DONE).usage == Usage(6, 1)


def test_u6_reasoning_that_is_counted_apart_is_generated() -> None:
    assert usage_of({"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135}) == Usage(135, 103)
