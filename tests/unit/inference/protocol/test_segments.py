"""The parts of an answer beside its text: thoughts, wherever they stand, and the functions to be called."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.inference.events import CallHead, Delta, Segment
from server.inference.protocol import TextResponseReader
from server.inference.protocol.thinking import split_at_close
from server.model_request import Completed
from tests.fakes.huggingface import event
from tests.fixtures.deciphering import DONE, EVENT_STREAM, choice, completed, decipher, document, failed, joined


def test_reasoning_has_a_segment_of_its_own() -> None:
    events = decipher(choice(reasoning="hm", reasoning_content="hm"), choice("stop", content="ah"))
    assert events[1:3] == [Delta("hm", Segment.REASONING), Delta("ah")]
    assert events[-1].output_data["reasoning"] == "hm"


def test_the_pieces_of_tool_calls_are_put_together() -> None:
    first = {"index": 0, "id": "c1", "function": {"name": "add", "arguments": '{"a":'}}
    rest = {"index": 0, "id": "c1", "function": {"name": None, "arguments": "1}"}}
    other = {"index": 1, "id": "c2", "function": {"name": "say", "arguments": None}}
    data = completed(choice(tool_calls=[first]), choice(tool_calls=[rest, other]), DONE).output_data
    assert data["output"] == ""
    assert data["finish_reason"] is None
    assert data["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}},
        {"id": "c2", "type": "function", "function": {"name": "say", "arguments": "{}"}},
    ]


def test_the_arguments_of_tool_calls_are_handed_on_as_they_come() -> None:
    first = {"index": 0, "id": "c1", "function": {"name": "add", "arguments": ""}}
    rest = {"index": 0, "function": {"arguments": '{"a":1}'}}
    other = {"index": 1, "id": "c2", "function": {"name": "say", "arguments": "{}"}}
    events = decipher(choice(tool_calls=[first]), choice(tool_calls=[rest]), choice(tool_calls=[other]), DONE)
    assert events[1:-1] == [
        Delta('{"a":1}', Segment.TOOL_CALL, 0, "add", CallHead("c1")),
        Delta("{}", Segment.TOOL_CALL, 1, "say", CallHead("c2")),
    ]


def test_arguments_wait_for_the_name_of_their_function() -> None:
    early = {"index": 0, "id": "c1", "function": {"arguments": '{"a"'}}
    named = {"index": 0, "function": {"name": "add", "arguments": ":1}"}}
    events = decipher(choice(tool_calls=[early]), choice(tool_calls=[named]), DONE)
    assert events[1:-1] == [Delta('{"a":1}', Segment.TOOL_CALL, 0, "add", CallHead("c1"))]
    nameless = decipher(choice(tool_calls=[early]), DONE)
    assert nameless[1:-1] == [Delta('{"a"', Segment.TOOL_CALL, head=CallHead("c1"))]


def test_what_is_not_fit_to_be_stored_goes_from_tool_calls_too() -> None:
    pieces = [{"index": 0, "id": "c\0", "function": {"name": "f\0", "arguments": "\ud83d"}}]
    pieces.append({"index": 0, "function": {"arguments": "\ude00\0"}})
    data = completed(choice(tool_calls=pieces[:1]), choice(tool_calls=pieces[1:]), DONE).output_data
    assert data["cleaned"] is True
    [call] = data["tool_calls"]
    assert call == {"id": "c\ufffd", "type": "function", "function": {"name": "f\ufffd", "arguments": "😀\ufffd"}}


def test_arguments_too_deep_to_keep_are_refused() -> None:
    deep: Any = {}
    for _ in range(400):
        deep = {"a": deep}
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": deep}}
    assert failed(document({"choices": [{"index": 0, "message": {"tool_calls": [call]}}]})).error.is_transient


def test_endless_tool_calls_are_refused() -> None:
    calls = [{"index": number, "function": {"name": "f"}} for number in range(1000)]
    failure = failed(choice(tool_calls=calls))
    assert "could not be understood" in failure.error.message
    assert failure.output_data is not None
    assert len(failure.output_data["tool_calls"]) == 128


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("<think>\nHm.\n</think>\n\nAh.", "Hm.", "Ah."),
        (" \n<think>Hm.</think>Ah.", "Hm.", "Ah."),
        ("<think></think>Ah.", None, "Ah."),
        ("<think>\n\n</think>\n\nAh. ", None, "Ah. "),
        ("<think>Hm. a < b </ thin", "Hm. a < b </ thin", ""),
        ("<think>Hm.</thi", "Hm.</thi", ""),
        ("<think>Hm.\n ", "Hm.", ""),
        ("<thinking>Ah.", None, "<thinking>Ah."),
        ("<thi", None, "<thi"),
        ("  Ah. <think>no</think>", None, "  Ah. <think>no</think>"),
        ("<think>Hm.</think>Ah. <think>no</think>", "Hm.", "Ah. <think>no</think>"),
        ("<think>Hm <think> again.</think>Ah.", "Hm <think> again.", "Ah."),
        ("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Ah.", "Hm.", "Ah."),
        ("<|channel|>analysis<|message|>Hm.<|channel|>final <|message|>a < b <|x|>.<|return|>", "Hm.", "a < b <|x|>."),
        ("<|start|>assistant<|channel|>final<|message|>Ah.<|retu", None, "Ah.<|retu"),
        ("<|channel|>analysis<|message|>Hm.", "Hm.", ""),
        ("<|channel|>final <|constrain|>json<|message|>{}", None, "{}"),
        ("<|start|>assistant<|message|>Ah.", None, "Ah."),
        ("<|channel|>Ah.", None, "Ah."),
        ("<|chan", None, "<|chan"),
        ("Ah. <|channel|>no", None, "Ah. <|channel|>no"),
        ("<think></think>Ah.</think>no", None, "Ah.</think>no"),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a2_thoughts_in_the_text_are_told_apart(text: str, thought: str | None, answer: str, size: int) -> None:
    pieces = [choice(content=text[start : start + size]) for start in range(0, len(text), size)]
    events = decipher(*pieces, choice(finish="stop"), DONE)
    data = events[-1].output_data
    assert (data["output"], data.get("reasoning")) == (answer, thought)
    assert joined(events, Segment.OUTPUT) == answer
    assert joined(events, Segment.REASONING) == (thought or "")


_PIECES_OF_THOUGHT = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<",
        "/",
        "think>",
        " ",
        "\n",
        "a",
        "</th",
        "<|channel|>",
        "final",
        "<|message|>",
        "<|",
        "|>",
    ]
)


@given(st.lists(_PIECES_OF_THOUGHT, max_size=12), st.data())
def test_thoughts_are_the_same_however_they_are_cut(words: list[str], data: st.DataObject) -> None:
    text = "".join(words)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    pieces = [choice(content=text[start:end]) for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = decipher(choice(content=text), choice(finish="stop"), DONE)
    cut = decipher(*pieces, choice(finish="stop"), DONE)
    assert cut[-1] == whole[-1]
    if split_at_close(text) is not None:
        return  # A1: deltas before a lone closing tag are void
    for segment in (Segment.OUTPUT, Segment.REASONING):
        assert joined(cut, segment) == joined(whole, segment)


def test_raw_generation_keeps_its_text_as_it_is() -> None:
    decipherer = TextResponseReader(200, EVENT_STREAM, splits_thoughts=False)
    decipherer.feed(event({"choices": [{"index": 0, "text": "<think>Hm.</think>", "finish_reason": "stop"}]}))
    last = decipherer.finish()[-1]
    assert isinstance(last, Completed)
    assert last.output_data["output"] == "<think>Hm.</think>"
