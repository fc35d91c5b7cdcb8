"""Every exchange, recorded or written by hand, means what an independent reader says it means."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.inference.events import Delta, Segment, Started
from server.inference.protocol import Failure, FollowUp, Progress, TextResponseReader
from server.inference.protocol.thinking import split_at_close
from server.model_request import Completed
from tests.fakes.huggingface import awkward_pieces, body_of
from tests.fakes.reader import read
from tests.fakes.tapes import all_exchanges, exchanges


def decipher(record: dict[str, Any], pieces: list[bytes]) -> list[Progress | Completed | Failure | FollowUp]:
    response = record["response"]
    is_chat = not record["task"].startswith("text-generation")
    decipherer = TextResponseReader(response["status"], response["headers"], model="org/model", splits_thoughts=is_chat)
    events: list[Progress | Completed | Failure | FollowUp] = []
    for piece in pieces:
        events += decipherer.feed(piece)
    return events + decipherer.finish()


def joined(events: list[Any], segment: Segment) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta) and event.segment is segment)


@pytest.mark.parametrize("record", exchanges())
def test_an_exchange_means_what_the_independent_reader_says(record: dict[str, Any]) -> None:
    expected = read(record)
    *events, last = decipher(record, [body_of(record)])
    if not expected.is_ok:
        assert isinstance(last, Failure)
        assert last.error.is_transient == expected.is_transient
        assert (expected.words or "The model provider") in last.error.message
        return
    assert isinstance(last, Completed)
    assert last.output_data["output"] == expected.text
    assert split_at_close(joined(events, Segment.OUTPUT)) or joined(events, Segment.OUTPUT) == expected.text  # A1
    assert last.output_data.get("reasoning") == expected.reasoning
    assert (last.usage.token_used, last.usage.token_count) == (expected.token_used, expected.token_count)
    names = tuple(call["function"]["name"] for call in last.output_data.get("tool_calls", ()))
    assert names == expected.tool_names
    for number, call in enumerate(last.output_data.get("tool_calls", ())):
        deltas = [event for event in events if isinstance(event, Delta) and event.segment is Segment.TOOL_CALL]
        pieces = [delta for delta in deltas if delta.number == number]
        assert pieces[0].name == call["function"]["name"]
        assert "".join(piece.text for piece in pieces) == call["function"]["arguments"]
    assert [type(event) for event in events].index(Started) == 0


@pytest.mark.parametrize("record", exchanges())
def test_the_chunking_of_an_exchange_changes_nothing(record: dict[str, Any]) -> None:
    body = body_of(record)
    whole = decipher(record, [body])
    assert decipher(record, list(awkward_pieces(body))) == whole
    if len(body) < 10_000:
        assert decipher(record, [body[i : i + 1] for i in range(len(body))]) == whole


@given(data=st.data())
@settings(max_examples=300)
def test_any_split_of_any_exchange_gives_the_same_events(data: st.DataObject) -> None:
    record = data.draw(st.sampled_from(all_exchanges()), label="record")
    body = body_of(record)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8), label="cuts"))
    pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert decipher(record, pieces) == decipher(record, [body])


@pytest.mark.parametrize("record", exchanges())
def test_what_users_see_of_an_exchange_is_tidy(record: dict[str, Any]) -> None:
    last = decipher(record, [body_of(record)])[-1]
    if isinstance(last, Failure):
        assert "<html" not in last.error.message.lower()
        assert "\n" not in last.error.message
        assert len(last.error.message) < 800
        assert last.error.message.endswith((".", "…"))
    else:
        assert isinstance(last, Completed)
        assert last.output_data["finish_reason"] not in {"eos_token", "stop_sequence"}
