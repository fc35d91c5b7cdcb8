"""Events of a request as chunks: one role, every delta, one end; and what cannot be taken back."""

import json
from typing import Any
from uuid import UUID

import pytest

from server.encoding import dumps
from server.errors import Conflict, Invalid, ModelFailed, ModelTooSlow, Problem, Unavailable
from server.inference.events import CallHead, Segment
from server.model_request import RequestId, Status
from server.openai.chat import completion
from server.openai.chunks import Chunks
from server.openai.outcome import problem_of
from server.transcript import START, Final, Part, Reset, StatusChange

ID = UUID("019ab0c4-5d1e-7c3a-9f20-3b1d2c4e5f60")
COMPLETED: dict[str, Any] = {
    "status": "completed",
    "model": "org/model",
    "output_data": {"output": "hi", "finish_reason": "stop"},
    "token_used": 8,
    "token_count": 5,
}
FAILED: dict[str, Any] = {
    "status": "failed",
    "error_code": "MODEL_ERROR",
    "error_msg": "No.",
    "completed_at": "2026-11-23T08:00:01Z",
    "deadline_at": "2026-11-23T08:10:00.123456Z",
}
LATE = {"completed_at": "2026-11-23T08:09:59.500000Z"}


def make(*, wants_usage: bool = False) -> Chunks:
    return Chunks(ID, model="asked/first", wants_usage=wants_usage)


def read(data: bytes) -> list[Any]:
    """The events of some bytes; `[DONE]` as it is."""
    texts = [text.removeprefix("data: ") for text in data.decode().split("\n\n") if text]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]


def delta(text: str, segment: Segment = Segment.OUTPUT, number: int = 0, name: str = "") -> Part:
    return Part(segment, number, name, text, START)


def final(outcome: dict[str, Any]) -> Final:
    return Final(Status(outcome["status"]), dumps(outcome))


def deltas_of(events: list[Any]) -> list[Any]:
    return [event["choices"][0]["delta"] for event in events if event != "[DONE]"]


def test_the_role_comes_once_and_first() -> None:
    chunks = make()
    events = read(chunks.encode(delta("h")) + chunks.encode(delta("i")))
    assert deltas_of(events) == [{"role": "assistant", "content": ""}, {"content": "h"}, {"content": "i"}]


def test_an_answer_without_text_has_a_role_and_an_end() -> None:
    first, last, done = read(make().encode(final(COMPLETED)))
    assert deltas_of([first, last]) == [{"role": "assistant", "content": ""}, {}]
    assert (last["choices"][0]["finish_reason"], done) == ("stop", "[DONE]")


def test_states_are_not_told() -> None:
    chunks = make()
    assert chunks.encode(StatusChange(RequestId(ID), Status.PROCESSING)) == b""
    assert not chunks.has_begun


def test_thoughts_stand_beside_the_answer() -> None:
    events = read(make().encode(delta("hm", Segment.REASONING)))
    assert deltas_of(events)[1] == {"reasoning_content": "hm"}


def test_a_call_is_introduced_once_and_its_arguments_follow() -> None:
    chunks = make()
    given = [("", 0, "weather"), ('{"a', 0, "weather"), ('":1}', 0, "weather"), ("{}", 1, "now")]
    data = b"".join(chunks.encode(delta(t, Segment.TOOL_CALL, i, n)) for t, i, n in given)
    calls = [item["tool_calls"][0] for item in deltas_of(read(data))[1:]]
    assert calls == [
        {
            "index": 0,
            "id": f"call_{ID.hex}0",
            "type": "function",
            "function": {"name": "weather", "arguments": ""},
        },
        {"index": 0, "function": {"arguments": '{"a'}},
        {"index": 0, "function": {"arguments": '":1}'}},
        {"index": 1, "id": f"call_{ID.hex}1", "type": "function", "function": {"name": "now", "arguments": "{}"}},
    ]


def test_usage_is_null_until_its_own_chunk() -> None:
    chunks = make(wants_usage=True)
    *others, usage, done = read(chunks.encode(delta("hi")) + chunks.encode(final(COMPLETED)))
    assert [event["usage"] for event in others] == [None] * 3
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    assert done == "[DONE]"


def test_the_last_chunk_names_the_model_that_answered() -> None:
    chunks = make()
    first, *_ = read(chunks.encode(delta("hi")))
    last, _ = read(chunks.encode(final(COMPLETED)))
    assert (first["model"], last["model"]) == ("asked/first", "org/model")


def test_a_failure_before_anything_was_said_is_raised() -> None:
    with pytest.raises(ModelFailed, match=r"No\."):
        make().encode(final(FAILED))


@pytest.mark.parametrize("begin", ["text", "a comment"])
def test_a_failure_after_the_beginning_is_an_event_and_the_end(begin: str) -> None:
    chunks = make()
    assert chunks.encode(delta("hi")) if begin == "text" else chunks.keep_alive()
    [event] = read(chunks.encode(final(FAILED)))
    assert (event["error"]["message"], event["error"]["code"]) == ("No.", "model_error")
    assert chunks.is_over


def test_s2_a_comment_makes_no_event_where_every_blank_line_does() -> None:
    assert make().keep_alive() == b": still here\n"


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085"])
def test_s1_separators_of_lines_are_escaped_in_chunks(separator: str) -> None:
    data = make().encode(delta(f"a{separator}b"))
    assert separator not in data.decode()
    assert deltas_of(read(data))[-1] == {"content": f"a{separator}b"}


def test_text_that_starts_anew_ends_the_stream() -> None:
    chunks = make()
    chunks.encode(delta("hi"))
    [event] = read(chunks.encode(Reset(RequestId(ID))))
    assert "cannot be taken back" in event["error"]["message"]
    assert chunks.is_over


@pytest.mark.parametrize(
    ("outcome", "kind", "status"),
    [
        ({"status": "cancelled"}, Conflict, 409),
        (FAILED, ModelFailed, 502),
        (FAILED | LATE, ModelTooSlow, 504),
        (FAILED | {"error_code": "VALIDATION_ERROR"}, Invalid, 422),
        (FAILED | {"error_code": "SERVER_ERROR"}, Unavailable, 503),
        (FAILED | LATE | {"error_code": "SERVER_ERROR"}, Unavailable, 503),
    ],
)
def test_what_a_request_ended_with_becomes_an_error_of_the_call(
    outcome: dict[str, Any], kind: type[Problem], status: int
) -> None:
    problem = problem_of(outcome)
    assert type(problem) is kind
    assert problem.status == status


def test_what_was_completed_is_no_error() -> None:
    assert problem_of(COMPLETED) is None


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ({"finish_reason": None}, "stop"),
        ({}, "stop"),
        ({"finish_reason": "odd"}, "stop"),
        ({"finish_reason": "length"}, "length"),
        ({"finish_reason": "content_filter"}, "content_filter"),
        ({"finish_reason": "odd", "tool_calls": [{}]}, "tool_calls"),
    ],
)
def test_a4b_the_finish_reason_is_one_that_clients_know(output: dict[str, Any], reason: str) -> None:
    *_, last, _ = read(make().encode(final(COMPLETED | {"output_data": {"output": "hi"} | output})))
    assert last["choices"][0]["finish_reason"] == reason


EXTRA = {"google": {"thought_signature": "c2ln"}}


def test_t8_t9_a_call_has_the_provider_s_id_and_extra_content_once() -> None:
    chunks = make()
    head = CallHead("functions.f:0", EXTRA)
    parts = [Part(Segment.TOOL_CALL, 0, "f", text, START, head) for text in ("{", "}")]
    first, second = (delta["tool_calls"][0] for delta in deltas_of(read(b"".join(map(chunks.encode, parts))))[1:])
    assert (first["id"], first["extra_content"]) == ("functions.f:0", EXTRA)
    assert second == {"index": 0, "function": {"arguments": "}"}}


def test_t9_the_whole_answer_has_the_extra_content_of_a_call() -> None:
    call = {"id": "a1", "type": "function", "function": {"name": "f", "arguments": "{}"}, "extra_content": EXTRA}
    output = {"output": "", "finish_reason": "tool_calls", "tool_calls": [call]}
    [choice] = completion(ID, COMPLETED | {"output_data": output})["choices"]
    assert choice["message"]["tool_calls"] == [call]
