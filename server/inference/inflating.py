"""Decompresses answers in small pieces, because a few compressed bytes can have any size when decompressed."""

import zlib
from collections.abc import Iterator, Mapping

PIECE_BYTES = 64 * 1024
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_HEADERLESS = -zlib.MAX_WBITS
_IS_DEFLATE = 8
"""The low half of a zlib header's first byte (RFC 1950, 2.2)."""


class BadCoding(Exception):
    """The body does not match its Content-Encoding, or the coding is not supported."""


class Inflater:
    """Decompresses gzip and deflate, lazily: the rest stays compressed if the iteration stops."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._inflate: zlib._Decompress | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the compressed data has ended. Bytes after its end are ignored."""
        return self._inflate is not None and self._inflate.eof

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The decompressed `chunk`, at most `PIECE_BYTES` at a time. Raises `BadCoding`."""
        if self._inflate is None:
            self._inflate = self._open(chunk[0])
        is_more = True
        while is_more and not self._inflate.eof:
            try:
                piece = self._inflate.decompress(chunk, PIECE_BYTES)
            except zlib.error as error:
                raise BadCoding(self._coding) from error
            chunk = self._inflate.unconsumed_tail
            is_more = bool(chunk) or len(piece) == PIECE_BYTES  # zlib may buffer more output
            if piece:
                yield piece

    def _open(self, first: int) -> "zlib._Decompress":
        """Some servers send deflate without its zlib header."""
        is_headerless = self._coding == "deflate" and first & 0x0F != _IS_DEFLATE
        return zlib.decompressobj(_HEADERLESS if is_headerless else _GZIP_OR_ZLIB)


def inflater_for(headers: Mapping[str, str]) -> Inflater | None:
    """The decompressor for an answer with these headers; None for a plain one. Raises `BadCoding`."""
    if "Content-Encoding" not in headers:
        return None
    coding = headers["Content-Encoding"].strip().lower().removeprefix("x-")
    if coding in {"", "identity"}:
        return None
    if coding not in {"gzip", "deflate"}:
        raise BadCoding(coding)
    return Inflater(coding)
