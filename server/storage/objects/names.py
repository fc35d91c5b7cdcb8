"""Object keys: `<user_id>/<file_id>.<extension>`, valid in any store and safe against path traversal. Pure."""

import re
from typing import NewType
from uuid import UUID

ObjectKey = NewType("ObjectKey", str)

OTHER = "application/octet-stream"
_CONTENT_TYPES = {
    "3g2": "video/3gpp2",
    "3ga": "audio/3gpp",
    "3gp": "video/3gpp",
    "3gpa": "audio/3gpp2",
    "aac": "audio/aac",
    "aif": "audio/aiff",
    "amr": "audio/amr",
    "avif": "image/avif",
    "awb": "audio/amr-wb",
    "bin": OTHER,
    "bmp": "image/bmp",
    "caf": "audio/x-caf",
    "csv": "text/csv",
    "flac": "audio/flac",
    "gif": "image/gif",
    "heic": "image/heic",
    "jpg": "image/jpeg",
    "json": "application/json",
    "m4a": "audio/mp4",
    "mov": "video/quicktime",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "ogg": "audio/ogg",
    "pdf": "application/pdf",
    "png": "image/png",
    "tiff": "image/tiff",
    "txt": "text/plain",
    "wav": "audio/wav",
    "weba": "audio/webm",
    "webm": "video/webm",
    "webp": "image/webp",
}
"""The extension stores the type, because a folder cannot. Types that a browser would execute (HTML, SVG, scripts) are
stored as plain bytes.

Keys of existing objects are derived from this table: lines can be added, but not changed.
"""
_EXTENSIONS = {content_type: extension for extension, content_type in _CONTENT_TYPES.items()} | {
    "audio/m4a": "m4a",
    "audio/mp3": "mp3",
    "audio/vnd.wave": "wav",
    "audio/wave": "wav",
    "audio/x-flac": "flac",
    "audio/x-m4a": "m4a",
    "audio/x-wav": "wav",
    "image/heif": "heic",
    "image/jpg": "jpg",
    "image/x-ms-bmp": "bmp",
    "audio/opus": "ogg",
}
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_KEY = re.compile(rf"{_UUID}/{_UUID}\.({'|'.join(_CONTENT_TYPES)})", re.ASCII)


def key_of(user_id: UUID, file_id: UUID, content_type: str) -> ObjectKey:
    """The key of a file. Parameters of the type (`; charset=…`) are ignored; an unknown type counts as bytes."""
    return ObjectKey(f"{user_id}/{file_id}.{_extension_of(content_type)}")


def kept_type(content_type: str) -> str:
    """The type with which a file of this content type is stored and served."""
    return _CONTENT_TYPES[_extension_of(content_type)]


def _extension_of(content_type: str) -> str:
    return _EXTENSIONS.get(content_type.partition(";")[0].strip().lower(), "bin")


def file_id_of(key: ObjectKey) -> UUID:
    """The file id in a key."""
    return UUID(key.partition("/")[2].partition(".")[0])


def parse_key(text: str) -> ObjectKey:
    """Raises ValueError for a text that `key_of` cannot return."""
    if not _KEY.fullmatch(text):
        raise ValueError("a key is <user id>/<uuid>.<extension>, in lower case")
    return ObjectKey(text)


def content_type_of(key: ObjectKey) -> str:
    """The content type of a stored file."""
    return _CONTENT_TYPES[key.rpartition(".")[2]]


def is_key(text: str) -> bool:
    """Whether it is a key of ours. A bucket may contain other files, too."""
    return _KEY.fullmatch(text) is not None
