"""The part of a file that a request asks for (RFC 9110, section 14). Pure."""

import re
from typing import NamedTuple

_RANGE = re.compile(r"bytes[ \t]*=[ \t]*(\d{0,18})-(\d{0,18})", re.ASCII | re.IGNORECASE)


class Part(NamedTuple):
    """Bytes from `start` up to, not including, `end`."""

    start: int
    end: int


class Unsatisfiable(Exception):
    """The range begins beyond the end of the file."""


def read_range(header: str | None, size: int) -> Part | None:
    """The requested part; None for the whole file, also for other ranges than one of bytes, which servers may ignore.

    Raises `Unsatisfiable`.
    """
    match = _RANGE.fullmatch(header.strip()) if header is not None else None
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        start, end = max(0, size - int(match[2])), size
    else:
        start, end = int(match[1]), size if match[2] == "" else int(match[2]) + 1
        if end <= start and match[2] != "":
            return None
    if start >= min(end, size):
        raise Unsatisfiable
    return Part(start, min(end, size))
