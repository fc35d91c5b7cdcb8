"""The transcript: whoever reads it in pieces, from wherever, reads what was written."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from server.inference.events import CallHead, Delta, Segment
from server.transcript import START, Position, Transcript

OUTPUT, REASONING, TOOL_CALL = Segment.OUTPUT, Segment.REASONING, Segment.TOOL_CALL

_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=5)
_deltas = st.lists(
    st.one_of(
        st.builds(Delta, _texts, st.sampled_from([OUTPUT, REASONING]), st.just(0), st.just(""), st.none()),
        st.builds(lambda text, number: Delta(text, TOOL_CALL, number, f"tool{number}"), _texts, st.integers(0, 2)),
    ),
    max_size=30,
)


def written(deltas: list[Delta]) -> Transcript:
    transcript = Transcript()
    for delta in deltas:
        transcript.append(delta)
    return transcript


def read(transcript: Transcript, position: Position = START, limit: int = 1000) -> list[tuple[Any, ...]]:
    """What a reader gets, neighbours of one segment joined."""
    joined: list[list[Any]] = []
    for part in transcript.since(position, limit=limit):
        if joined and joined[-1][:2] == [part.segment, part.number]:
            joined[-1][3] += part.text
        else:
            joined.append([part.segment, part.number, part.name, part.text])
    return [tuple(item) for item in joined]


def output_of(transcript: Transcript) -> dict[str, Any]:
    """As it would be kept, with the usual fields."""
    data = transcript.partial() or {"output": ""}
    calls = data.get("tool_calls", [])
    return data | ({"tool_calls": calls} if calls else {})


@given(_deltas, st.integers(1, 7), st.data())
def test_a_reader_that_stops_anywhere_and_comes_back_misses_nothing(
    deltas: list[Delta], limit: int, data: st.DataObject
) -> None:
    transcript = written(deltas)
    whole = "".join(part.text for part in transcript.since(START, limit=1000))
    cut = data.draw(st.integers(0, transcript.length))
    parts = [part.text for part in transcript.since(START, limit=limit)]
    assert max(map(len, parts), default=0) <= limit
    before = "".join(parts)[:cut]
    after = "".join(part.text for part in transcript.since(transcript.at(cut), limit=limit))
    assert before + after == whole
    assert len(whole) == transcript.length


@given(_deltas)
def test_a_reader_that_looks_after_every_delta_gets_each_once(deltas: list[Delta]) -> None:
    transcript, position, got = Transcript(), START, []
    for delta in deltas:
        transcript.append(delta)
        for part in transcript.since(position, limit=1000):
            got.append((part.segment, part.number, part.text))
            position = part.end
        assert not list(transcript.since(position, limit=1000))
    assert got == [(delta.segment, delta.number, delta.text) for delta in deltas]


@given(_deltas.filter(lambda deltas: {d.number for d in deltas if d.segment is TOOL_CALL} in ({0}, {0, 1}, set())))
def test_what_was_kept_is_rebuilt_in_the_order_in_which_it_came(deltas: list[Delta]) -> None:
    transcript = written(sorted(deltas, key=lambda delta: delta.segment is TOOL_CALL and delta.number == 1))
    rebuilt = Transcript.rebuild(output_of(transcript), transcript.shape())
    assert read(rebuilt) == read(transcript)
    assert rebuilt.length == transcript.length


def test_the_usual_order_needs_no_shape() -> None:
    usual = [
        Delta("hm", REASONING),
        Delta("yes", OUTPUT),
        Delta("{}", TOOL_CALL, 0, "f"),
        Delta("{}", TOOL_CALL, 1, "g"),
    ]
    assert written(usual).shape() is None
    assert written(usual[::-1]).shape() is not None


def test_a_tool_call_without_arguments_is_shown_once() -> None:
    transcript = written([Delta("a", OUTPUT), Delta("", TOOL_CALL, 0, "now")])
    parts = list(transcript.since(transcript.at(1), limit=10))
    assert [(part.name, part.text) for part in parts] == [("now", "")]
    assert not list(transcript.since(parts[-1].end, limit=10))


def test_a_shape_that_does_not_fit_is_no_crash() -> None:
    rebuilt = Transcript.rebuild({"output": "short"}, [["output", 50], ["reasoning", 3]])
    assert read(rebuilt) == [(OUTPUT, 0, "", "short")]


def test_readers_are_called_when_there_is_more() -> None:
    transcript, calls = Transcript(), []
    transcript.readers.add(lambda: calls.append(transcript.length))
    transcript.append(Delta("ab"))
    transcript.append(Delta("c"))
    assert calls == [2, 3]


def test_partial_text_says_that_it_is_partial() -> None:
    assert Transcript().partial() is None
    transcript = written([Delta("why", REASONING), Delta("be", OUTPUT), Delta('{"a', TOOL_CALL, 0, "f")])
    assert transcript.partial() == {
        "output": "be",
        "reasoning": "why",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": '{"a'}}],
        "partial": True,
    }


def test_what_other_programs_stored_gives_the_text_that_can_be_found() -> None:
    strange: list[Any] = [None, [], "text", 1, {"tool_calls": 3}, {"tool_calls": [1, {}, {"function": {"name": 1}}]}]
    for output_data in strange:
        assert Transcript.rebuild(output_data).end == START
    good = {"function": {"name": "now", "arguments": "{}"}}
    assert read(Transcript.rebuild({"output": 5, "reasoning": "hm", "tool_calls": [{}, good]})) == [
        (REASONING, 0, "", "hm"),
        (TOOL_CALL, 1, "now", "{}"),
    ]


@given(st.lists(st.tuples(st.text("ab", max_size=2), st.integers(0, 2)), max_size=8), st.data())
def test_a_reader_never_goes_back_though_some_calls_have_no_arguments(
    calls: list[tuple[str, int]], data: st.DataObject
) -> None:
    transcript = written([Delta(text, TOOL_CALL, number, "f") for text, number in calls])
    cut = data.draw(st.integers(0, transcript.length))
    ends = [part.end for part in transcript.since(Position(cut, -1), limit=1)]
    assert ends == sorted(ends)
    assert all(end.offset >= cut for end in ends)


def test_t8_t9_a_rebuilt_transcript_has_the_heads_of_its_calls() -> None:
    head = CallHead("functions.f:0", {"google": {}})
    source = Transcript()
    for delta in (Delta("{", Segment.TOOL_CALL, 0, "f", head), Delta("hm"), Delta("}", Segment.TOOL_CALL, 0)):
        source.append(delta)
    assert [part.head for part in source.since(START, limit=9)] == [head, None, head]
    partial = source.partial()
    assert partial is not None
    assert partial["tool_calls"][0]["id"] == "functions.f:0"
    again = Transcript.rebuild(partial, source.shape())
    assert list(again.since(START, limit=9)) == list(source.since(START, limit=9))
