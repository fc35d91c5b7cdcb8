"""Files inside a document, and the types of files that models generate."""

import base64
import binascii
import re
from typing import Any, NamedTuple

from server.inference.protocol.file_types import sniff
from server.inference.protocol.texts import Unintelligible

DETECTED_BYTES = 64
"""Enough of a file to detect an image or sound."""
MAX_CHUNK_BYTES = 256 * 1024

_DATA_URL = re.compile(r"data:(?P<type>[a-z0-9.+-]+/[a-z0-9.+-]+)(?:;[^;,]*)*?;base64,", re.ASCII | re.IGNORECASE)
_MEDIA_TYPE = re.compile(r"(?:image|audio)/[a-z0-9.+-]{1,64}", re.ASCII)


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
    data = _decode(text)
    media_type = detect(data[:DETECTED_BYTES]) or media_type_of(content_type)
    if media_type is None or not data:
        raise Unintelligible
    return InlineFile(data, media_type)


def _decode(text: str) -> bytes:
    """Either alphabet (RFC 4648, 4 and 5), with or without line breaks, with or without padding."""
    text = "".join(text.split()).replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise Unintelligible from None
