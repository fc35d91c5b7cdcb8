"""Requests as values: where they go, what they say, and bodies in parts, so that no file is ever in memory whole."""

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from server.file_reference import SCHEME
from server.inference.events import Call, InputFile, Task

Body = bytes | tuple["bytes | FilePart", ...]

_PLACE = re.compile(rb"\xff(\d+)\xff")
"""Where a file goes: a byte that JSON in UTF-8 never has, so that no text can look like it."""
_DATA_URL = re.compile(r"data:(?P<type>[^;,]+);base64,(?P<data>.*)", re.DOTALL)


class BadModel(ValueError):
    """A model id that the router could not have, or a task that nobody serves; the words are for the user."""


def unknown_way(provider: str, task: Task) -> BadModel:
    return BadModel(f"It is not known how to ask the provider {provider} for {task}.")


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


@dataclass(frozen=True, slots=True)
class Base64:
    """A file as a string of a JSON body: base64, after a `prefix`. No tuple, which the encoder takes for a list."""

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
    stored: list[tuple[str, InputFile]] = []

    def place(value: Any) -> Any:
        if not isinstance(value, Base64):
            raise TypeError(type(value).__name__)
        content = value.attachment.content
        if isinstance(content, str):
            return value.prefix + content
        stored.append((value.prefix, content))
        return orjson.Fragment(b"\xff%d\xff" % (len(stored) - 1))

    text = orjson.dumps(document, default=place, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    return tuple(_parts(text, stored)) if stored else text


def _parts(text: bytes, stored: list[tuple[str, InputFile]]) -> Iterator[bytes | FilePart]:
    first, *others = _PLACE.split(text)
    yield first
    for number, piece in zip(others[::2], others[1::2], strict=True):
        prefix, file = stored[int(number)]
        yield b'"' + prefix.encode()
        yield FilePart(file, is_base64=True)
        yield b'"' + piece
