"""Finds the files inside a JSON body while its bytes arrive, so that they are never in memory as a whole. Pure."""

import re
from binascii import Error, a2b_base64
from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson

MIN_FILE_CHARS = 64 * 1024
"""A shorter string stays in the body."""
_DATA_URL = re.compile(
    r"\s*data:\s*(?:([a-z0-9.+*-]+/[a-z0-9.+*-]+)?(?:;[^,]*)?;)?\s*base64\s*", re.ASCII | re.IGNORECASE
)
_MAX_HEADER = 1000
_URL_FIELDS = frozenset({"url", "image", "audio", "inputs", "file_data", "data"})
"""Fields that may hold a `data:` URL: those of `server.file_reference`, and Hugging Face's name for the first two."""
_BASE64_FIELDS = {"data": "audio/unknown", "file_data": "application/octet-stream"}
"""Fields of OpenAI's `input_audio` and `file` that may hold base64 alone, with its type."""
_GROUP = 4
_MAX_KEY = 200

_TOKEN = re.compile(rb'["{}\[\],]')
_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_CUT_ESCAPE = re.compile(rb"\\(?:u[0-9A-Fa-f]{0,3})?\Z")
_MAX_CUT = 5
_SPACE = b" \t\r\n"
_STANDARD = bytes.maketrans(b"-_", b"+/")


class BadBase64(ValueError):
    """The text of a file is not base64."""


class TooComplex(ValueError):
    """The body is nested more than `max_depth`, or has more than `max_commas`."""


@dataclass(frozen=True, slots=True)
class FileStart:
    """The file of the field at `path` begins. Its pieces follow, and then a `FileEnd`."""

    path: str
    content_type: str


@dataclass(frozen=True, slots=True)
class FileEnd:
    """The file is complete."""


Piece = FileStart | bytes | FileEnd


@dataclass(slots=True)
class _Level:
    """An open object or array: the key of the current member, or its number."""

    is_object: bool
    key: str = ""
    number: int = 0
    is_at_key: bool = True


@dataclass(slots=True)
class BodyScanner:
    """Copies a body to `rest`, except the content of each string that is a file of more than `MIN_FILE_CHARS`.

    `rest` has an empty string there; the caller appends to `rest` after the `FileEnd` to fill it. The scanner checks no
    syntax: `rest` is valid JSON exactly if the body is.
    """

    max_depth: int
    max_commas: int
    rest: bytearray = field(default_factory=bytearray)
    commas: int = 0
    """Fewer than the members of all objects and arrays."""
    _levels: list[_Level] = field(default_factory=list)
    _string: bytearray | None = None
    """The string that is being read, unless it is a value that cannot be a file."""
    _is_inside: bool = False
    _is_escaped: bool = False
    _decoder: "Base64Decoder | None" = None

    @property
    def depth(self) -> int:
        return len(self._levels)

    @property
    def path(self) -> str:
        """The field that is being read, with dots."""
        return ".".join(level.key if level.is_object else str(level.number) for level in self._levels)

    def feed(self, chunk: bytes) -> Iterator[Piece]:
        """The pieces of files in the next bytes. Raises `BadBase64` and `TooComplex`."""
        at = 0
        while at < len(chunk):
            if not self._is_inside:
                at = self._skip_to_string(chunk, at)
                continue
            end = self._end_of_string(chunk, at)
            is_closed = end < len(chunk)
            yield from self._take(chunk[at:end])
            if is_closed:
                yield from self._close_string()
                self.rest += b'"'
            at = end + 1

    def _skip_to_string(self, chunk: bytes, at: int) -> int:
        """Copy what is outside of strings, with the next quote. Returns where the string begins."""
        levels = self._levels
        for token in _TOKEN.finditer(chunk, at):
            match chunk[token.start()]:
                case 0x22:  # a quote
                    self.rest += chunk[at : token.end()]
                    self._open_string()
                    return token.end()
                case 0x2C:  # a comma
                    self.commas += 1
                    if levels:
                        levels[-1].number += 1
                        levels[-1].is_at_key = True
                case 0x5B | 0x7B as opening:  # [ and {
                    levels.append(_Level(opening == 0x7B))  # noqa: PLR2004
                case _:
                    del levels[-1:]
            if len(levels) > self.max_depth or self.commas > self.max_commas:
                raise TooComplex
        self.rest += chunk[at:]
        return len(chunk)

    def _open_string(self) -> None:
        level = self._levels[-1] if self._levels else None
        is_key = level is not None and level.is_object and level.is_at_key
        self._is_inside = True
        may_be_file = level is not None and level.is_object and level.key in _URL_FIELDS
        self._string = bytearray() if is_key or may_be_file else None

    def _end_of_string(self, chunk: bytes, at: int) -> int:
        """The index of the quote that ends the string, or the length of the chunk."""
        if self._is_escaped:
            self._is_escaped = False
            at += 1
        end = chunk.find(b'"', at)
        if chunk.find(b"\\", at, len(chunk) if end < 0 else end) < 0:
            return len(chunk) if end < 0 else end
        match = _STRING.match(chunk, at)
        end = at if match is None else match.end()
        if end < len(chunk) and chunk[end] == ord("\\"):  # the last byte: the next chunk has what it escapes
            self._is_escaped = True
            return len(chunk)
        return end

    def _take(self, raw: bytes) -> Iterator[Piece]:
        if self._decoder is not None:
            yield self._decoder.feed(raw)
        elif self._string is None:
            self.rest += raw
        else:
            self._string += raw
            if len(self._string) > MIN_FILE_CHARS:
                yield from self._decide()

    def _decide(self) -> Iterator[Piece]:
        """A long string is a file or is copied."""
        assert self._string is not None, "called inside a string that may be a file"  # noqa: S101 - for mypy
        string, self._string = bytes(self._string), None
        found = None if self._is_key else _header_of(string, self._levels[-1].key)
        if found is None:
            self.rest += string
            return
        content_type, start = found
        self._decoder = Base64Decoder()
        yield FileStart(self.path, content_type)
        yield self._decoder.feed(string[start:])

    @property
    def _is_key(self) -> bool:
        return bool(self._levels) and self._levels[-1].is_object and self._levels[-1].is_at_key

    def _close_string(self) -> Iterator[Piece]:
        self._is_inside = False
        if self._decoder is not None:
            decoder, self._decoder = self._decoder, None
            yield decoder.close()
            yield FileEnd()
            return
        string, self._string = self._string, None
        self.rest += string or b""
        if self._is_key:
            self._levels[-1].key = _text_of(bytes(string[:_MAX_KEY])) if string is not None else ""
            self._levels[-1].is_at_key = False


def _header_of(string: bytes, key: str) -> tuple[str, int] | None:
    """The type of a file, and the number of bytes before its base64. None: the string is no file."""
    comma = string.find(b",", 0, _MAX_HEADER)
    match = None if comma < 0 else _DATA_URL.fullmatch(_text_of(string[:comma]))
    if match is not None:
        return (match[1] or "application/octet-stream").lower(), comma + 1
    return None if key not in _BASE64_FIELDS or string[:5].lower() == b"data:" else (_BASE64_FIELDS[key], 0)


def _text_of(raw: bytes) -> str:
    """The text of the inside of a JSON string; empty if it is not valid."""
    try:
        return str(orjson.loads(b'"%b"' % raw))
    except orjson.JSONDecodeError:
        return ""


class Base64Decoder:
    """Decodes base64 inside a JSON string, in pieces: with JSON's escapes, line breaks and blanks, with or without
    padding, and in the URL-safe alphabet."""

    def __init__(self) -> None:
        self._cut = b""
        """The beginning of an escape."""
        self._left = b""
        """Less than a group of four characters."""
        self._is_padded = False

    def feed(self, raw: bytes) -> bytes:
        """The bytes of the next text. Raises `BadBase64`."""
        raw = self._cut + raw if self._cut else raw
        self._cut = b""
        if b"\\" in raw:
            if (match := _CUT_ESCAPE.search(raw, max(0, len(raw) - _MAX_CUT))) is not None:
                self._cut = match[0]
                raw = raw[: match.start()]
            raw = _without_escapes(raw)
        if b"-" in raw or b"_" in raw or b" " in raw:
            raw = raw.translate(_STANDARD, _SPACE)
        text = self._left + raw if self._left else raw
        whole = len(text) - len(text) % _GROUP
        self._left = text[whole:]
        return self._decode(text[:whole] if self._left else text)

    def close(self) -> bytes:
        """The last bytes. Raises `BadBase64`."""
        if self._cut:
            raise BadBase64
        left, self._left = self._left, b""
        return self._decode(left + b"=" * (-len(left) % _GROUP))

    def _decode(self, text: bytes) -> bytes:
        if not text:
            return b""
        if self._is_padded:
            raise BadBase64
        self._is_padded = text.endswith(b"=")
        try:
            return a2b_base64(text, strict_mode=True)
        except Error:
            raise BadBase64 from None


def _without_escapes(raw: bytes) -> bytes:
    try:
        return str(orjson.loads(b'"%b"' % raw)).encode("ascii").translate(None, _SPACE)
    except (orjson.JSONDecodeError, UnicodeError):
        raise BadBase64 from None
