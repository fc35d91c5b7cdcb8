"""HTTP requests as values. Their bodies may have parts, so that no file is in memory as a whole."""

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from server.file_reference import SCHEME
from server.inference.events import Call, InputFile, Task
from server.inference.protocol import movie_index

Body = bytes | tuple["bytes | FilePart", ...]

_PLACE = re.compile(rb"\xff(\d+)\xff")
"""Marks the place of a file. JSON in UTF-8 never contains this byte."""
_DATA_URL = re.compile(r"data:(?P<type>[^;,]+);base64,(?P<data>.*)", re.DOTALL)


class BadModel(ValueError):
    """An impossible model id, or a task that no provider serves; the message is for the user."""


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


@dataclass(slots=True)
class WireRequest:
    """One HTTP request without its credentials.

    A body in parts is sent as a stream, part by part. `is_foreign`: the address comes from an answer of upstream, so it
    gets no credentials and must be public.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: Body | None = None
    is_foreign: bool = False


class Attachment(NamedTuple):
    """A file of the input: a stored file, or base64 in the input itself."""

    content_type: str
    content: InputFile | str

    def raw(self) -> Body:
        """Its bytes."""
        if isinstance(self.content, str):
            return base64.b64decode(self.content)
        return (FilePart(self.content),)


@dataclass(frozen=True, slots=True)
class Base64:
    """A file as a string of a JSON body: a `prefix`, then base64. Not a tuple, which orjson encodes as a list."""

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
    content_type, data = match["type"], match["data"]
    if content_type in movie_index.CONTENT_TYPES:
        data = base64.b64encode(movie_index.move_in_memory(base64.b64decode(data))).decode()
    return Attachment(content_type, data)


def as_data_url(attachment: Attachment) -> Base64:
    return Base64(attachment, f"data:{attachment.content_type};base64,")


def named(model: str | None) -> dict[str, Any]:
    """The first field of a body, as in both official clients: the router reads only the beginning of a body."""
    return {} if model is None else {"model": model}


def with_extra(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters, and among them the fields of `extra`, which is stored as JSON text. Ours have precedence."""
    given = dict(parameters)
    extra = given.pop("extra", None)
    return given if extra is None else {**orjson.loads(extra), **given}


def encode(document: Mapping[str, Any]) -> Body:
    """JSON; in parts if it contains a stored file as `Base64`."""
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
