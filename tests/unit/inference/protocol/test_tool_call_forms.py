"""Tool calls in other forms than OpenAI's, as providers send them."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from server.inference.events import CallHead, Delta, Segment
from tests.fixtures.deciphering import DONE, choice, completed, decipher, document, failed, joined


def piece(name: str | None = None, arguments: Any = None, **more: Any) -> dict[str, Any]:
    """One piece of a tool call."""
    function = {"name": name, "arguments": arguments}
    return {**more, "function": {key: value for key, value in function.items() if value is not None}}


def calls_of(*pieces: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and arguments of the calls of a stream with a delta for each piece; they equal the stream's deltas."""
    events = decipher(*(choice(tool_calls=[one]) for one in pieces), choice("tool_calls"), DONE)
    calls = [call["function"] for call in events[-1].output_data["tool_calls"]]
    for number, call in enumerate(calls):
        assert joined(events, Segment.TOOL_CALL, number) == call["arguments"]
    return [(call["name"], call["arguments"]) for call in calls]


@pytest.mark.parametrize("name", [None, "", "f"])
def test_t1_a_new_id_without_a_new_name_continues_the_call(name: str | None) -> None:
    assert calls_of(piece("f", '{"a":', index=0, id="a1"), piece(name, "1}", index=0, id="a2")) == [("f", '{"a":1}')]


def test_t1_a_new_id_with_a_name_begins_a_call() -> None:
    first, second = piece("f", '{"a":1}', index=-1, id="a1"), piece("f", '{"a":2}', index=-1, id="a2")
    assert calls_of(first, second) == [("f", '{"a":1}'), ("f", '{"a":2}')]
    assert calls_of(first, second | {"id": "a1", "index": 1}) == [("f", '{"a":1}'), ("f", '{"a":2}')]


@pytest.mark.parametrize("more", [{}, {"id": "a1"}, {"id": ""}, {"id": None}])
def test_t2_arguments_under_another_number_belong_to_the_open_call(more: dict[str, Any]) -> None:
    first = piece("f", '{"a":', index=0, id="a1")
    assert calls_of(first, piece(None, "1", index=1, **more), piece(None, "}", index=2, **more)) == [("f", '{"a":1}')]


def test_t2_the_open_call_is_the_last_one() -> None:
    pieces = [piece("f", "{}", index=0, id="a1"), piece("g", "{", index=1, id="a2"), piece(None, "}", index=7)]
    assert calls_of(*pieces) == [("f", "{}"), ("g", "{}")]


@pytest.mark.parametrize("more", [{"index": 0}, {}])
@pytest.mark.parametrize("second", ["f", "g"])
def test_t3_whole_calls_under_one_number_are_as_many_calls(more: dict[str, Any], second: str) -> None:
    pieces = [piece("f", '{"x":1}', **more), piece(second, '{"y":2}', **more)]
    assert calls_of(*pieces) == [("f", '{"x":1}'), (second, '{"y":2}')]
    together = completed(choice("tool_calls", tool_calls=pieces), DONE).output_data["tool_calls"]
    assert [call["function"]["arguments"] for call in together] == ['{"x":1}', '{"y":2}']


def test_t3_a_call_that_is_repeated_at_its_end_is_one_call() -> None:
    whole = piece("f", '{"x":1}', index=0, id="a1")
    assert calls_of(piece("f", '{"x":', index=0, id="a1"), piece(None, "1}", index=0), whole) == [("f", '{"x":1}')]


@pytest.mark.parametrize("arguments", [None, "", " "])
def test_t4_a_call_without_arguments_has_an_empty_object(arguments: str | None) -> None:
    [(name, given)] = calls_of(piece("now", arguments, index=0, id="a1"))
    assert (name, given.strip()) == ("now", "{}")
    whole = document({"choices": [{"index": 0, "message": {"tool_calls": [piece("now", arguments)]}}]})
    assert completed(whole).output_data["tool_calls"][0]["function"]["arguments"].strip() == "{}"


def test_t4_a_call_that_broke_off_is_not_made_whole() -> None:
    data = failed(choice(tool_calls=[piece("now", index=0, id="a1")])).output_data
    assert data is not None
    assert data["tool_calls"][0]["function"] == {"name": "now", "arguments": ""}


@pytest.mark.parametrize("names", [("get_", "weather"), ("get_weather", "get_weather"), ("get_", "get_weather")])
def test_t5_a_name_in_pieces_is_joined(names: tuple[str, str]) -> None:
    first, second = (piece(name, "", index=0, id="a1") for name in names)
    assert calls_of(first, second, piece(None, "{}", index=0)) == [("get_weather", "{}")]


@pytest.mark.parametrize(
    "names",
    [
        ("manage_cart<|channel|>commentary",),
        ("manage_cart<|channel",),
        ("manage_cart", "<|chan", "nel|>json"),
        ("<|constrain|>manage_cart",),
        ("manage_cart<\uff5ctool▁sep\uff5c>",),
    ],
)
def test_t6_a_name_ends_at_a_control_token(names: tuple[str, ...]) -> None:
    assert calls_of(*(piece(name, index=0) for name in names), piece(None, "{}", index=0)) == [("manage_cart", "{}")]


def test_t7_the_call_of_the_old_form_is_a_tool_call() -> None:
    pieces = [{"name": "f", "arguments": '{"a"'}, {"arguments": ":1}"}]
    events = decipher(*(choice(function_call=one) for one in pieces), choice("function_call"), DONE)
    data = events[-1].output_data
    assert data["finish_reason"] == "tool_calls"
    assert [call["function"] for call in data["tool_calls"]] == [{"name": "f", "arguments": '{"a":1}'}]


@pytest.mark.parametrize("reason", ["tool_call", "tool_use", "function_call", "TOOL_CALLS"])
def test_t7_reasons_of_tool_calls_have_one_name(reason: str) -> None:
    data = completed(choice(reason, tool_calls=[piece("f", "{}", index=0, id="a1")]), DONE).output_data
    assert data["finish_reason"] == "tool_calls"


EXTRA = {"google": {"thought_signature": "c2ln"}}


def test_t8_t9_the_first_delta_has_the_id_and_the_extra_content() -> None:
    pieces = [piece("f", "", id="functions.f:0", extra_content=EXTRA), piece(None, "{}")]
    events = decipher(*(choice(tool_calls=[one]) for one in pieces), choice("tool_calls"), DONE)
    assert events[1] == Delta("{}", Segment.TOOL_CALL, 0, "f", CallHead("functions.f:0", EXTRA))
    [call] = events[-1].output_data["tool_calls"]
    assert (call["id"], call["extra_content"]) == ("functions.f:0", EXTRA)


@pytest.mark.parametrize("extra", ["text", [1], {}, None])
def test_t9_extra_content_that_is_no_object_is_left_out(extra: Any) -> None:
    data = completed(choice("stop", tool_calls=[piece("f", "{}", id="a1", extra_content=extra)]), DONE).output_data
    assert "extra_content" not in data["tool_calls"][0]


def test_t9_extra_content_is_fit_to_be_stored() -> None:
    data = completed(choice("stop", tool_calls=[piece("f", "{}", extra_content={"a": "b\0"})]), DONE).output_data
    assert data["tool_calls"][0]["extra_content"] == {"a": "b\ufffd"}
    assert data["cleaned"] is True


@pytest.mark.parametrize("number", [str, float])
def test_t1_numbers_of_calls_may_be_texts_and_floats(number: Callable[[int], Any]) -> None:
    heads = [piece("f", "", index=number(0), id="a1"), piece("g", "", index=number(1), id="a2")]
    assert calls_of(*heads, piece(None, '{"x":1}', index=number(0)), piece(None, '{"y":2}', index=number(1))) == [
        ("f", '{"x":1}'),
        ("g", '{"y":2}'),
    ]


@pytest.mark.parametrize("pieces", [("null",), ("nu", "ll"), (" ", "\n"), ('"{}"',)])
def test_t4_null_is_no_arguments(pieces: tuple[str, ...]) -> None:
    first, *others = pieces
    assert calls_of(piece("f", first, index=0), *(piece(None, other, index=0) for other in others)) == [("f", "{}")]


@pytest.mark.parametrize("empty", ["{}", {}, " { } "])
def test_t4_an_empty_object_in_front_of_the_arguments_is_none_of_them(empty: Any) -> None:
    assert calls_of(piece("f", empty, index=0, id="a1"), piece(None, '{"x":', index=0), piece(None, "1}", index=0)) == [
        ("f", '{"x":1}')
    ]
    [(name, arguments)] = calls_of(piece("f", empty, index=0, id="a1"))
    assert (name, json.loads(arguments)) == ("f", {})
    two = [piece("f", empty, index=0, id="a1"), piece("f", '{"x":1}', index=0, id="a2")]
    assert [json.loads(arguments) for _, arguments in calls_of(*two)] == [{}, {"x": 1}]


@pytest.mark.parametrize("size", [1, 4, 100])
def test_t4_arguments_that_were_encoded_twice_are_the_object(size: int) -> None:
    text = json.dumps('{"x":"a\\nb"}')
    first, *others = [text[start : start + size] for start in range(0, len(text), size)]
    assert calls_of(piece("f", first, index=0), *(piece(None, other, index=0) for other in others)) == [
        ("f", '{"x":"a\\nb"}')
    ]
    for other in ('"a text"', '"[1]"', '"cut'):
        assert calls_of(piece("f", other, index=0)) == [("f", other)]


def test_t5_blanks_around_a_name_are_not_of_it() -> None:
    assert calls_of(piece(" f\n", "{}", index=0)) == [("f", "{}")]


def test_t7_name_and_arguments_may_be_next_to_the_id() -> None:
    assert calls_of({"index": 0, "id": "a1", "name": "f", "arguments": '{"x":1}'}) == [("f", '{"x":1}')]
