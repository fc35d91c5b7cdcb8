"""The files of a document, in the document itself or at addresses, and the types of generated files."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from server.encoding import decode_base64
from server.inference.events import FileChunk
from server.inference.protocol.file_types import sniff
from server.inference.protocol.providers import PROVIDERS
from server.inference.protocol.texts import Unintelligible

DETECTED_BYTES = 64
"""Enough of a file to detect an image or sound."""
MAX_CHUNK_BYTES = 256 * 1024
MAX_FILES = 8

_DATA_URL = re.compile(r"data:(?P<type>[a-z0-9.+-]+/[a-z0-9.+-]+)(?:;[^;,]*)*?;base64,", re.ASCII | re.IGNORECASE)
_MEDIA_TYPE = re.compile(r"(?:image|audio)/[a-z0-9.+-]{1,64}", re.ASCII)
_MAX_DEPTH = 3
_HOLDERS = (*dict.fromkeys(name for provider in PROVIDERS.values() for name in provider.holders), "result")
_FILE_FIELDS = (
    *dict.fromkeys(name for provider in PROVIDERS.values() for name in provider.file_fields),
    *("image", "audio", "sample", "blob"),
)
"""The providers' fields in their order, then those of Black Forest Labs and of older pipelines."""


class InlineFile(NamedTuple):
    data: bytes
    content_type: str


def detect(head: bytes) -> str | None:
    """The media type of an image or of sound by its first `DETECTED_BYTES`; None for anything else."""
    found = sniff(head)
    if found == "video/webm":  # the container of both; models generate sound in it
        return "audio/webm"
    return found if found is not None and found.startswith(("image/", "audio/")) else None


def media_type_of(header: str) -> str | None:
    """The type that a header names, if it is an image or sound."""
    media_type = header.partition(";")[0].strip().lower()
    return media_type if _MEDIA_TYPE.fullmatch(media_type) else None


def read_base64(text: Any, *, content_type: str = "") -> InlineFile:
    """A file from base64 or from a `data:` URL. The detected type counts for more than the declared one.

    Raises `Unintelligible` for a file that is neither an image nor sound.
    """
    if not isinstance(text, str):
        raise Unintelligible
    if match := _DATA_URL.match(text):
        content_type, text = match["type"], text[match.end() :]
    try:
        data = decode_base64(text)
    except ValueError:
        raise Unintelligible from None
    media_type = detect(data[:DETECTED_BYTES]) or media_type_of(content_type)
    if media_type is None or not data:
        raise Unintelligible
    return InlineFile(data, media_type)


def in_chunks(data: bytes, number: int, content_type: str) -> Iterator[FileChunk]:
    """A part of file `number`, in chunks of at most `MAX_CHUNK_BYTES`."""
    for start in range(0, len(data), MAX_CHUNK_BYTES):
        yield FileChunk(data[start : start + MAX_CHUNK_BYTES], number, content_type)


def find_files(document: Any) -> list[InlineFile | str]:
    """The files of a holder, or else of the document itself, in order; an address is a string.

    Raises `Unintelligible` where there is none.
    """
    found = [] if document is None else list(_search(document))[:MAX_FILES]
    if not found:
        raise Unintelligible
    return [_file(text, content_type) for text, content_type in found]


def _search(document: Any) -> Iterator[tuple[str, str]]:
    if isinstance(document, dict):
        for holder in _HOLDERS:
            if document.get(holder):
                yield from _entries(document[holder])
                return
    yield from _entries(document)


def _entries(value: Any, *, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Entries to the depth that providers use."""
    if depth > _MAX_DEPTH:
        return
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, str):
            yield entry, ""
        elif isinstance(entry, dict):
            content_type = entry.get("content_type") or entry.get("content-type")
            inner = next((entry[name] for name in _FILE_FIELDS if entry.get(name)), None)
            if isinstance(inner, str):
                yield inner, content_type if isinstance(content_type, str) else ""
            elif inner is not None:
                yield from _entries(inner, depth=depth + 1)
            elif "outputs" in entry:  # wavespeed wraps in `data`
                yield from _entries(entry["outputs"] or [], depth=depth + 1)


def _file(text: str, content_type: str) -> InlineFile | str:
    if text.startswith(("https://", "http://")):
        return text
    return read_base64(text, content_type=content_type)
