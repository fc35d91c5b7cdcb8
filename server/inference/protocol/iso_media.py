"""ISO media files (ISO 14496-12: MP4, M4A, 3GP, HEIC, AVIF; QuickTime): their boxes, and their type by them. Pure."""

from collections.abc import Iterator
from typing import NamedTuple

HEADER_BYTES = 16
"""The longest header of a box."""
_SHORT, _LONG = 8, 16
_WITH_LARGE_SIZE, _TO_THE_END = 1, 0
_BRANDS = {
    b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4",
    b"M4P ": "audio/mp4",
    b"F4A ": "audio/mp4",
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"heim": "image/heic",
    b"heis": "image/heic",
    b"hevc": "image/heic",
    b"hevx": "image/heic",
    b"qt  ": "video/quicktime",
    b"crx ": None,  # a raw photo of Canon
}
"""Major brands; any other is `video/mp4`, or of the next tables."""
_FAMILIES = {
    b"3gp": "video/3gpp",
    b"3gr": "video/3gpp",
    b"3gs": "video/3gpp",
    b"3ge": "video/3gpp",
    b"3g2": "video/3gpp2",
}
_PICTURES = frozenset({b"mif1", b"mif2", b"msf1", b"miaf"})
"""Brands of any picture in this container (ISO 23008-12); the compatible brands name the codec."""
_WITHOUT_FTYP = {b"moov": 2**29, b"mdat": 2**29, b"wide": _SHORT, b"free": 2**16, b"skip": 2**16, b"pnot": 2**10}
"""The boxes that an old QuickTime film may begin with, and their largest size that is not text."""
SOUND_OF = {
    "video/mp4": "audio/mp4",
    "video/3gpp": "audio/3gpp",
    "video/3gpp2": "audio/3gpp2",
    "video/webm": "audio/webm",
}
"""The name of a container without pictures."""


class Box(NamedTuple):
    """A box from `start` to `end`; its content begins at `body`. All are offsets in the file."""

    kind: bytes
    start: int
    body: int
    end: int


def read_box(header: bytes, start: int, limit: int) -> Box | None:
    """The box whose first bytes are `header`. None for one that does not end by `limit`, and for garbage."""
    if len(header) < _SHORT:
        return None
    size, kind, length = int.from_bytes(header[:4]), header[4:8], _SHORT
    if size == _WITH_LARGE_SIZE:
        if len(header) < _LONG:
            return None
        size, length = int.from_bytes(header[8:16]), _LONG
    elif size == _TO_THE_END:
        size = limit - start
    return Box(kind, start, start + length, start + size) if length <= size <= limit - start else None


def boxes(data: bytes | bytearray, start: int, end: int) -> Iterator[Box]:
    """The boxes of `data` from `start` to `end`, until one is not whole."""
    while start < end and (box := read_box(bytes(data[start : start + HEADER_BYTES]), start, end)) is not None:
        yield box
        start = box.end


def sniff_iso(head: bytes) -> str | None:
    """The type of an ISO media file by its brand; if it is a film, also by the kinds of its tracks."""
    kind, size = head[4:8], int.from_bytes(head[:4])
    if kind != b"ftyp":
        return "video/quicktime" if _SHORT <= size <= _WITHOUT_FTYP.get(kind, 0) or _is_large(kind, size) else None
    brand = head[8:12]
    if brand in _PICTURES:
        compatible = {head[at : at + 4] for at in range(16, min(size, len(head)), 4)}
        return "image/avif" if compatible & {b"avif", b"avis"} else "image/heic"
    found = _BRANDS.get(brand, _FAMILIES.get(brand[:3], "video/mp4"))
    if found is not None and _track_kinds(head) == {b"soun"}:
        return SOUND_OF.get(found, found)
    return found


def _is_large(kind: bytes, size: int) -> bool:
    return kind == b"mdat" and size in {_WITH_LARGE_SIZE, _TO_THE_END}


def _track_kinds(head: bytes) -> set[bytes]:
    """The handlers of all tracks; empty if they are not all in the head."""
    moov = next((box for box in boxes(head, 0, len(head)) if box.kind == b"moov"), None)
    if moov is None:
        return set()
    return {
        head[handler.body + 8 : handler.body + 12]
        for track in boxes(head, moov.body, moov.end)
        if track.kind == b"trak"
        for media in boxes(head, track.body, track.end)
        if media.kind == b"mdia"
        for handler in boxes(head, media.body, media.end)
        if handler.kind == b"hdlr"
    }
