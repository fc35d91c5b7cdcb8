"""The splitter of server-sent events: the standard's rules, and independence of how the bytes were cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.inference.protocol.sse import ServerEvent, SseSplitter

LINES = st.sampled_from(
    [
        b"data: one",
        b"data:two",
        b"data",
        b": comment",
        b"event: error",
        b"id: 7",
        b"retry: 10",
        b"",
        b"",
        b"data: \xf0\x9f",
    ]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


def split(*chunks: bytes, with_rest: bool = True, max_line_bytes: int = 100) -> list[ServerEvent]:
    splitter = SseSplitter(max_line_bytes=max_line_bytes)
    events = [event for chunk in chunks for event in splitter.feed(chunk)]
    return events + splitter.flush(with_rest=with_rest)


@given(st.lists(st.tuples(LINES, ENDS)), st.data())
def test_any_chunking_gives_the_same_events(lines: list[tuple[bytes, bytes]], data: st.DataObject) -> None:
    body = b"".join(line + end for line, end in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)))))
    chunks = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    for max_line_bytes in (5, 100):
        assert split(*chunks, max_line_bytes=max_line_bytes) == split(body, max_line_bytes=max_line_bytes)


@pytest.mark.parametrize(
    ("body", "data"),
    [
        (b"data: x\n\n", [b"x"]),
        (b"data:x\n\n", [b"x"]),
        (b"data:  x\n\n", [b" x"]),
        (b"data: x\r\n\r\ndata: y\r\n\r\n", [b"x", b"y"]),
        (b"data: x\r\rdata: y\r\r", [b"x", b"y"]),
        (b"data: x\ndata: y\n\n", [b"x\ny"]),
        (b": ping\n\ndata: x\n\n: ping\n\n", [b"x"]),
        (b"id: 1\nretry: 5\n\n", []),
        (b"nonsense: x\n\n", []),
        (b"data: x", [b"x"]),
        (b"data: x\n", [b"x"]),
        (b"", []),
    ],
)
def test_events_are_split_as_the_standard_says(body: bytes, data: list[bytes]) -> None:
    assert [event.data for event in split(body)] == data


def test_an_event_keeps_its_name_and_does_not_pass_it_on() -> None:
    assert split(b"event: error\ndata: x\n\ndata: y\n\n") == [ServerEvent(b"error", b"x"), ServerEvent(b"", b"y")]


def test_a_line_without_its_end_is_dropped_when_the_body_was_cut() -> None:
    assert split(b"data: x\n\ndata: y", with_rest=False) == [ServerEvent(b"", b"x")]


def test_too_long_a_line_ends_it_and_keeps_what_came_before() -> None:
    splitter = SseSplitter(max_line_bytes=10)
    assert splitter.feed(b"data: x\n\ndata: 0123456789\n\ndata: y\n\n") == [ServerEvent(b"", b"x")]
    assert splitter.has_overflowed
    assert splitter.feed(b"data: z\n\n") == []
