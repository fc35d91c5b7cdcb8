"""Ranges of a file: what is asked for is what is sent, and what makes no sense asks for all of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.http.ranges import Part, Unsatisfiable, read_range


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=2-5", (2, 6)),
        ("bytes=9-", (9, 10)),
        ("bytes=0-", (0, 10)),
        ("bytes=5-99999999999", (5, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-10", (0, 10)),
        ("bytes=-999", (0, 10)),
        ("Bytes = 1-2", (1, 3)),
        (" bytes=1-2 ", (1, 3)),
        (None, None),
        ("", None),
        ("bytes", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=5-2", None),
        ("bytes=0-1,3-4", None),
        ("items=0-1", None),
        ("bytes=1-2-3", None),
        ("bytes=--1", None),
        ("bytes=²-3", None),
        ("bytes=" + "9" * 5000 + "-", None),
    ],
)
def test_a_range_is_read(header: str | None, part: tuple[int, int] | None) -> None:
    assert read_range(header, 10) == part


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=99-100", "bytes=-0"])
def test_a_range_beyond_the_end_is_not_satisfiable(header: str) -> None:
    with pytest.raises(Unsatisfiable):
        read_range(header, 10)


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-5", "bytes=-1"])
def test_nothing_of_an_empty_file_can_be_asked_for(header: str) -> None:
    with pytest.raises(Unsatisfiable):
        read_range(header, 0)


@given(st.text(max_size=30) | st.from_regex(r"bytes=\d{0,20}-\d{0,20}"), st.integers(0, 100))
def test_a_part_lies_within_its_file(header: str, size: int) -> None:
    try:
        part = read_range(header, size)
    except Unsatisfiable:
        return
    assert part is None or (isinstance(part, Part) and 0 <= part.start < part.end <= size)
