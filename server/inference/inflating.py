"""Unpacks compressed answers in small pieces, as nobody asked for them: what a few bytes unpack to is not bounded."""

import zlib
from collections.abc import Iterator, Mapping

PIECE_BYTES = 64 * 1024
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_HEADERLESS = -zlib.MAX_WBITS
_IS_DEFLATE = 8
"""The low half of a zlib header's first byte (RFC 1950, 2.2)."""


class BadCoding(Exception):
    """Not what the header says, or a coding that is not understood here."""


class Inflater:
    """gzip and deflate, bytes in any chunks. Whoever stops taking pieces leaves the rest packed."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._inflate: zlib._Decompress | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the end of the packed bytes was seen. What comes after it is ignored."""
        return self._inflate is not None and self._inflate.eof

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """What `chunk` unpacks to, at most `PIECE_BYTES` at a time. Raises `BadCoding`."""
        if self._inflate is None:
            self._inflate = self._open(chunk[0])
        is_more = True
        while is_more and not self._inflate.eof:
            try:
                piece = self._inflate.decompress(chunk, PIECE_BYTES)
            except zlib.error as error:
                raise BadCoding(self._coding) from error
            chunk = self._inflate.unconsumed_tail
            is_more = bool(chunk) or len(piece) == PIECE_BYTES  # zlib itself may hold more than it was asked for
            if piece:
                yield piece

    def _open(self, first: int) -> "zlib._Decompress":
        """Some send deflate without the header that belongs to it."""
        is_headerless = self._coding == "deflate" and first & 0x0F != _IS_DEFLATE
        return zlib.decompressobj(_HEADERLESS if is_headerless else _GZIP_OR_ZLIB)


def inflater_for(headers: Mapping[str, str]) -> Inflater | None:
    """What unpacks an answer with these headers; None where it is plain. Raises `BadCoding`."""
    if "Content-Encoding" not in headers:
        return None
    coding = headers["Content-Encoding"].strip().lower().removeprefix("x-")
    if coding in {"", "identity"}:
        return None
    if coding not in {"gzip", "deflate"}:
        raise BadCoding(coding)
    return Inflater(coding)
