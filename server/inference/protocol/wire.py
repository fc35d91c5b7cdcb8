"""Requests as values: where they go, what they say, and bodies in parts, so that no file is ever in memory whole."""

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from server.file_reference import SCHEME
from server.inference.events import Call, InputFile

Body = bytes | tuple["bytes | FilePart", ...]

_PLACE = re.compile(rb"\xff(\d+)\xff")
"""Where a file goes: a byte that JSON in UTF-8 never has, so that no text can look like it."""
_DATA_URL = re.compile(r"data:(?P<type>[^;,]+);base64,(?P<data>.*)", re.DOTALL)


class BadModel(ValueError):
    """A model id that the router could not have, or a task that nobody serves; the words are for the user."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """A stored file as a part of a body: as it is, or in base64 (without line breaks, as JSON wants it)."""

    file: InputFile
    is_base64: bool = False

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return 4 * -(-self.file.size // 3) if self.is_base64 else self.file.size


@dataclass(frozen=True, slots=True)
class WireRequest:
    """One HTTP request, complete but for the credentials.

    A body in parts is sent as a stream, one part after the other. `is_foreign`: upstream named this address in its
    answer, so it gets no credentials and must be a public one.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: Body | None = None
    is_foreign: bool = False


class Attachment(NamedTuple):
    """A file of the input: a stored one, or the base64 that stands in the input itself."""

    content_type: str
    content: InputFile | str

    def raw(self) -> Body:
        """Its bytes."""
        if isinstance(self.content, str):
            return base64.b64decode(self.content)
        return (FilePart(self.content),)


class Base64(NamedTuple):
    """A file as a string of a JSON body: base64, after a `prefix`."""

    attachment: Attachment
    prefix: str = ""


def attachment_of(call: Call, reference: str) -> Attachment:
    """The file that `reference` names: `file:<uuid>`, one of the call's, or a `data:` URL."""
    if reference.startswith(SCHEME):
        file = call.files[reference]
        return Attachment(file.content_type, file)
    match = _DATA_URL.fullmatch(reference)
    if match is None:
        raise BadModel("A file of the input is neither an upload nor a data: URL.")
    return Attachment(match["type"], match["data"])


def as_data_url(attachment: Attachment) -> Base64:
    return Base64(attachment, f"data:{attachment.content_type};base64,")


def encode(document: Mapping[str, Any]) -> Body:
    """JSON, in parts where `Base64` of a stored file stands in it."""
    files: list[_StoredFile] = []

    def place(value: Any) -> Any:
        if not isinstance(value, _StoredFile):
            raise TypeError(type(value).__name__)
        files.append(value)
        return orjson.Fragment(b"\xff%d\xff" % (len(files) - 1))

    text = orjson.dumps(_encodable(document), default=place)
    return tuple(_parts(text, files)) if files else text


class _StoredFile:
    """Not a tuple, which the encoder would take for a list."""

    def __init__(self, file: InputFile, prefix: str) -> None:
        self.file = file
        self.prefix = prefix


def _encodable(value: Any) -> Any:
    match value:
        case Base64(Attachment(_, str(text)), prefix):
            return prefix + text
        case Base64(Attachment(_, InputFile() as file), prefix):
            return _StoredFile(file, prefix)
        case dict():
            return {name: _encodable(item) for name, item in value.items()}
        case list() | tuple():
            return [_encodable(item) for item in value]
    return value


def _parts(text: bytes, files: list[_StoredFile]) -> Iterator[bytes | FilePart]:
    first, *others = _PLACE.split(text)
    yield first
    for number, piece in zip(others[::2], others[1::2], strict=True):
        stored = files[int(number)]
        yield b'"' + stored.prefix.encode()
        yield FilePart(stored.file, is_base64=True)
        yield b'"' + piece
