"""The index of a recording is moved to its front, or the file stays as it is."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.inference.protocol.movie_index import MAX_INDEX_BYTES, locate, move_in_memory, move_index
from tests.fakes.media import box

FTYP = box(b"ftyp", b"M4A ", bytes(4))
SOUND = b"first chunk, second chunk"


def table(kind: bytes, *offsets: int) -> bytes:
    letter = "I" if kind == b"stco" else "Q"
    return box(kind, bytes(4), struct.pack(f">I{len(offsets)}{letter}", len(offsets), *offsets))


def index(*tables: bytes) -> bytes:
    tracks = (box(b"trak", box(b"mdia", box(b"minf", box(b"stbl", box(b"stts", bytes(8)), one)))) for one in tables)
    return box(b"moov", box(b"mvhd", bytes(100)), *tracks, box(b"udta", bytes(4)))


def mdat(form: str) -> bytes:
    if form == "64 bit":
        return struct.pack(">I4sQ", 1, b"mdat", 16 + len(SOUND)) + SOUND
    return box(b"mdat", SOUND)


def recording(kind: bytes = b"stco", *, before: bytes = FTYP, form: str = "", after: bytes = b"") -> bytes:
    """Two tracks, whose chunks are the two halves of the sound."""
    data = mdat(form)
    first = len(before) + len(data) - len(SOUND)
    return before + data + index(table(kind, first), table(kind, first + 13)) + after


def chunks_of(data: bytes) -> list[bytes]:
    """The beginning of each chunk that the tables of a file name."""
    found = []
    for kind, width in ((b"stco", 4), (b"co64", 8)):
        at = -1
        while (at := data.find(kind, at + 1)) >= 0:
            offset = int.from_bytes(data[at + 12 : at + 12 + width])
            found.append(data[offset : offset + 5])
    return found


@pytest.mark.parametrize("kind", [b"stco", b"co64"])
@pytest.mark.parametrize("form", ["", "64 bit"])
@pytest.mark.parametrize("before", [FTYP, FTYP + box(b"wide"), FTYP + box(b"free", bytes(9)), b""])
@pytest.mark.parametrize("after", [b"", box(b"free", bytes(7))])
def test_an_index_behind_the_sound_is_moved_before_it(kind: bytes, form: str, before: bytes, after: bytes) -> None:
    sent = recording(kind, before=before, form=form, after=after)
    moved = move_in_memory(sent)
    assert moved.index(b"moov") < moved.index(b"mdat")
    assert len(moved) == len(sent)
    assert chunks_of(moved) == chunks_of(sent) == [b"first", b"secon"]
    assert move_in_memory(moved) == moved


def test_an_index_without_a_size_gets_one() -> None:
    sent = recording()
    at = sent.index(b"moov") - 4
    moved = move_in_memory(sent[:at] + bytes(4) + sent[at + 4 :])
    assert moved == move_in_memory(sent)


UNMOVED = {
    "nothing": b"",
    "an index in front": FTYP + index(table(b"stco", 500)) + mdat(""),
    "no index": FTYP + mdat(""),
    "sound without an end": FTYP + b"\0\0\0\0mdat" + SOUND + index(table(b"stco", 40)),
    "cut in the sound": recording()[:60],
    "cut in the index": recording()[:-20],
    "fragments": FTYP + box(b"moof") + mdat("") + index(table(b"stco", 40)),
    "fragments in the index": FTYP + mdat("") + box(b"moov", box(b"mvex"), box(b"trak")),
    "compressed": FTYP + mdat("") + box(b"moov", box(b"cmov", bytes(40))),
    "encrypted": FTYP + mdat("") + index(box(b"saio", bytes(12))),
    "a table with another length": FTYP + mdat("") + index(box(b"stco", bytes(4), b"\0\0\0\x05", bytes(8))),
    "a table without a length": FTYP + mdat("") + index(box(b"stco", bytes(2))),
    "a box beyond its holder": FTYP + mdat("") + box(b"moov", b"\0\0\1\0trak"),
    "a box below its header": FTYP + mdat("") + box(b"moov", b"\0\0\0\4trak", bytes(8)),
    "a large size that is cut": FTYP + mdat("") + b"\0\0\0\1moov\0\0",
    "many boxes": FTYP + box(b"free") * 100 + mdat("") + index(table(b"stco", 40)),
    "garbage": bytes(range(256)) * 4,
    "a size that is too large": FTYP + b"\0\0\0\1mdat" + b"\xff" * 8 + SOUND,
}


@pytest.mark.parametrize("name", UNMOVED)
def test_a_file_that_is_not_understood_stays_as_it_is(name: str) -> None:
    assert move_in_memory(UNMOVED[name]) == UNMOVED[name]


def test_files_of_any_size_are_moved_by_their_headers_alone() -> None:
    """A film of 5 GB: the index grows to 64 bits, or stays where an offset would outgrow its 32."""
    sound = 5 * 2**30
    headers = {0: FTYP, len(FTYP): struct.pack(">I4sQ", 1, b"mdat", sound)}
    start = len(FTYP) + sound
    content = index(table(b"co64", len(FTYP) + 16, start - 1, start + 7))
    headers[start] = content
    search = locate(start + len(content))
    assert next(search) == (0, 16)
    assert search.send(headers[0]) == (len(FTYP), len(FTYP) + 16)
    assert search.send(headers[len(FTYP)]) == (start, start + 16)
    with pytest.raises(StopIteration) as found:
        search.send(content[:16])
    place, moov = found.value.value
    assert (place, moov.start, moov.end) == (len(FTYP), start, start + len(content))
    moved = move_index(content, start, place)
    assert moved == index(table(b"co64", len(FTYP) + 16 + len(content), start - 1 + len(content), start + 7))
    near_the_end = index(table(b"stco", 2**32 - 10))
    assert move_index(near_the_end, start, place) is None


def test_a_very_long_index_is_not_read() -> None:
    size = len(FTYP) + 8 + MAX_INDEX_BYTES + 1
    search = locate(size)
    next(search)
    search.send(FTYP[:16])
    search.send(box(b"mdat"))
    with pytest.raises(StopIteration) as found:
        search.send(struct.pack(">I4s", size - len(FTYP) - 8, b"moov"))
    assert found.value.value is None


@given(st.integers(0, 300), st.binary(max_size=12))
def test_damage_never_makes_it_fail(at: int, damage: bytes) -> None:
    sent = recording()
    damaged = sent[:at] + damage + sent[at + len(damage) :]
    assert len(move_in_memory(damaged)) == len(damaged)
