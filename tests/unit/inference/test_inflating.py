"""Compressed answers, unpacked in small pieces from any chunks."""

import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.inference.inflating import PIECE_BYTES, BadCoding, Inflater, inflater_for


def headerless(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "deflate without header": headerless,
}


def unpack(coding: str, packed: bytes, size: int) -> tuple[bytes, bool]:
    inflater = Inflater(coding)
    pieces = [piece for start in range(0, len(packed), size) for piece in inflater.feed(packed[start : start + size])]
    assert all(0 < len(piece) <= PIECE_BYTES for piece in pieces)
    return b"".join(pieces), inflater.is_complete


@pytest.mark.parametrize("packer", PACKERS)
@given(data=st.binary(max_size=300), repeat=st.sampled_from([1, 1000]), size=st.integers(1, 400))
def test_any_chunks_unpack_to_the_same(packer: str, data: bytes, repeat: int, size: int) -> None:
    coding, whole = packer.partition(" ")[0], data * repeat
    assert unpack(coding, PACKERS[packer](whole), size) == (whole, True)


@pytest.mark.parametrize("size", [PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 10 * PIECE_BYTES])
def test_nothing_stays_behind_at_the_edge_of_a_piece(size: int) -> None:
    assert unpack("gzip", gzip.compress(b"x" * size), 10**6) == (b"x" * size, True)


def test_what_was_cut_off_is_not_complete() -> None:
    packed = gzip.compress(b"hello " * 100)
    data, is_complete = unpack("gzip", packed[:-9], 7)
    assert b"hello hello" in data
    assert not is_complete


def test_what_follows_the_end_is_ignored() -> None:
    assert unpack("gzip", gzip.compress(b"hello") + b"\0" * 50 + b"junk", 9) == (b"hello", True)


def test_a_bomb_gives_only_the_pieces_that_are_taken() -> None:
    pieces = Inflater("gzip").feed(gzip.compress(b"\0" * 50_000_000))
    assert len(next(pieces)) == PIECE_BYTES


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_garbage_is_a_bad_coding(coding: str) -> None:
    with pytest.raises(BadCoding):
        unpack(coding, b"\x78this is none", 100)


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip"])
def test_a_coding_that_was_not_asked_for_and_is_not_known_is_bad(coding: str) -> None:
    with pytest.raises(BadCoding):
        inflater_for({"Content-Encoding": coding})


@pytest.mark.parametrize("coding", ["", "identity", " Identity "])
def test_a_plain_answer_needs_none(coding: str) -> None:
    assert inflater_for({"Content-Encoding": coding}) is None
    assert inflater_for({}) is None


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip", "deflate"])
def test_the_two_usual_codings_are_known(coding: str) -> None:
    assert inflater_for({"Content-Encoding": coding}) is not None
