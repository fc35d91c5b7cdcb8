"""Moves the index of a recording to its front. Pure.

Phones write the index of an M4A, MP4, 3GP or MOV (its `moov` box) behind the sound. Models read a recording from a pipe
(ffmpeg's `pipe:0`), where nothing can be read twice. A recording of more than some 50 KB with its index at the end
fails there: "partial file", or "moov atom not found". The moved file has the same size and the same sound.
"""

from collections.abc import Generator

from server.inference.protocol.iso_media import HEADER_BYTES, Box, boxes, read_box

CONTENT_TYPES = frozenset(
    {"audio/mp4", "audio/3gpp", "audio/3gpp2", "video/mp4", "video/3gpp", "video/3gpp2", "video/quicktime"}
)
MAX_INDEX_BYTES = 4 * 1024 * 1024
"""A longer index stays where it is. It is in memory as a whole; the index of an hour of sound has less than 1 MB."""
_MAX_BOXES = 32
"""Boxes at the top of a file that are looked at. A fragmented file has more, and its index at the front."""
_HOLDERS = frozenset({b"trak", b"mdia", b"minf", b"stbl"})
_WITH_OTHER_OFFSETS = frozenset({b"cmov", b"mvex", b"saio"})
"""Parts of an index with offsets that are not moved here: compressed, of fragments, of encryption."""
_OFFSET_BYTES = {b"stco": 4, b"co64": 8}
_TABLE_HEADER = 8
_ZERO_BYTES = 4
"""QuickTime may end a list of boxes by 32 bits of zero."""


def locate(size: int) -> Generator[tuple[int, int], bytes, tuple[int, Box] | None]:
    """Where the index of a file of `size` bytes belongs, and its box; None if it need not or must not be moved.

    Yields the ranges (start, end) of the bytes that it wants to see, one header of a box each.
    """
    start, place = 0, None
    for _ in range(_MAX_BOXES):
        if start >= size:
            return None
        box = read_box((yield start, min(size, start + HEADER_BYTES)), start, size)
        if box is None or box.kind == b"moof":
            return None
        if box.kind == b"moov":
            return None if place is None or box.end - box.start > MAX_INDEX_BYTES else (place, box)
        if box.kind == b"mdat" and place is None:
            place = box.start
        start = box.end
    return None


def move_index(index: bytes, start: int, place: int) -> bytes | None:
    """The `moov` box at `place` instead of `start`: offsets between the two grow by its length.

    None if it cannot be moved: it is damaged, has other offsets too, or an offset outgrows its 32 bits.
    """
    whole = read_box(index[:HEADER_BYTES], 0, len(index))
    if whole is None:
        return None
    moved, length = bytearray(index), len(index)
    if whole.body == _TABLE_HEADER:
        moved[:4] = length.to_bytes(4)  # the last box of a file may have no size
    pending = [whole]
    while pending:
        holder = pending.pop()
        end = holder.body
        for box in boxes(moved, holder.body, holder.end):
            end = box.end
            if box.kind in _WITH_OTHER_OFFSETS:
                return None
            if box.kind in _HOLDERS:
                pending.append(box)
            elif box.kind in _OFFSET_BYTES and not _shift(moved, box, range(place, start), length):
                return None
        if holder.end - end not in {0, _ZERO_BYTES}:
            return None
    return bytes(moved)


def move_in_memory(data: bytes) -> bytes:
    """The file with its index in front, or as it is."""
    search = locate(len(data))
    try:
        start, end = next(search)
        while True:
            start, end = search.send(data[start:end])
    except StopIteration as found:
        if found.value is None:
            return data
        place, box = found.value
    index = move_index(data[box.start : box.end], box.start, place)
    return data if index is None else data[:place] + index + data[place : box.start] + data[box.end :]


def _shift(moved: bytearray, table: Box, between: range, length: int) -> bool:
    """Add `length` to the offsets of a table in `between`. False if it is damaged, or one becomes too large."""
    width, first = _OFFSET_BYTES[table.kind], table.body + _TABLE_HEADER
    if table.end - first != int.from_bytes(moved[first - 4 : first]) * width:
        return False
    for at in range(first, table.end, width):
        offset = int.from_bytes(moved[at : at + width])
        if offset in between:
            if offset + length >= 256**width:
                return False
            moved[at : at + width] = (offset + length).to_bytes(width)
    return True
