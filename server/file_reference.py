"""Finds references to uploaded files (`file:<uuid>`) in input data. Pure."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from uuid import UUID

import orjson

SCHEME = "file:"
_SIGN = b'"file:'
"""How every reference begins in JSON, as we and Postgres write it."""
_KINDS = {"image": "image", "audio": "audio", "url": "image", "data": "audio", "file_data": "file"}
"""Fields that may hold a reference, and the kind of file each takes: `file` is any.

`url`, `data` and `file_data` are in the parts `image_url`, `input_audio` and `file` of a chat.
"""
_OF_URL = {"audio_url": "audio", "video_url": "file"}
"""The kind of a `url` in other parts than `image_url`."""
_REFERENCE = re.compile(r"file:([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", re.ASCII)


class FileReference(NamedTuple):
    """`text` is found at the dotted `path` of the input. `kind` is the first half of the expected content type."""

    text: str
    file_id: UUID
    kind: str
    path: str


def find_references(input_data: bytes) -> list[FileReference]:
    """All references in this JSON, in their order. JSON without any is not parsed."""
    return list(_walk(orjson.loads(input_data), "input_data")) if _SIGN in input_data else []


def _walk(value: Any, path: str) -> Iterator[FileReference]:
    if isinstance(value, dict):
        for name, item in value.items():
            where = f"{path}.{name}"
            match = _REFERENCE.fullmatch(item) if isinstance(item, str) and name in _KINDS else None
            if match is not None:
                kind = _OF_URL.get(path.rpartition(".")[2], _KINDS[name])
                yield FileReference(match[0], UUID(match[1]), kind, where)
            else:
                yield from _walk(item, where)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _walk(item, f"{path}.{number}")
