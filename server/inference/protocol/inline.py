"""Files that stand in a document, and what kind of file some bytes are."""

import base64
import binascii
import re
from typing import Any, NamedTuple

from server.inference.protocol.texts import Unintelligible

SNIFFED_BYTES = 16
"""Of the beginning of a file: what is looked at."""
MAX_CHUNK_BYTES = 256 * 1024

_DATA_URL = re.compile(r"data:(?P<type>[a-z0-9.+-]+/[a-z0-9.+-]+)(?:;[^;,]*)*?;base64,", re.ASCII | re.IGNORECASE)
_MEDIA_TYPE = re.compile(r"(?:image|audio)/[a-z0-9.+-]{1,64}", re.ASCII)
_STARTS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"fLaC", "audio/flac"),
    (b"OggS", "audio/ogg"),
    (b"ID3", "audio/mpeg"),
    *((bytes([0xFF, second]), "audio/mpeg") for second in (0xFB, 0xFA, 0xF3, 0xF2, 0xE3, 0xE2)),
    (b"\xff\xf1", "audio/aac"),
    (b"\xff\xf9", "audio/aac"),
    (b"\x1aE\xdf\xa3", "audio/webm"),
)
_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/wav"}
_FTYP = {b"avif": "image/avif", b"heic": "image/heic", b"M4A ": "audio/mp4"}


class InlineFile(NamedTuple):
    data: bytes
    content_type: str


def sniff(head: bytes) -> str | None:
    """The media type of an image or of a sound by its first `SNIFFED_BYTES`; None for anything else."""
    for start, media_type in _STARTS:
        if head.startswith(start):
            return media_type
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12])
    return _FTYP.get(head[8:12]) if head[4:8] == b"ftyp" else None


def media_type_of(header: str) -> str | None:
    """The type that a header names, if it is one of images or of sound."""
    media_type = header.partition(";")[0].strip().lower()
    return media_type if _MEDIA_TYPE.fullmatch(media_type) else None


def read_base64(text: Any, *, content_type: str = "") -> InlineFile:
    """A file from base64 or from a `data:` URL. What the bytes say of themselves counts for more than any name.

    Raises `Unintelligible` for what is neither an image nor sound.
    """
    if not isinstance(text, str):
        raise Unintelligible
    if match := _DATA_URL.match(text):
        content_type, text = match["type"], text[match.end() :]
    data = _decode(text)
    media_type = sniff(data[:SNIFFED_BYTES]) or media_type_of(content_type)
    if media_type is None or not data:
        raise Unintelligible
    return InlineFile(data, media_type)


def _decode(text: str) -> bytes:
    """Of either alphabet (RFC 4648, 4 and 5), with line breaks or without, its end filled up or not."""
    text = "".join(text.split()).replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise Unintelligible from None
