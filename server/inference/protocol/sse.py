"""Server-sent events, split incrementally (WHATWG HTML, 9.2.6): any chunking of the same bytes gives the same."""

import re
from dataclasses import dataclass

MAX_LINE_BYTES = 1024 * 1024
"""A chunk of a completion has a few hundred bytes, one with log probabilities some ten thousand."""

_LINE_END = re.compile(rb"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """`name` is the `event:` field, empty where there was none; `data` the `data:` lines, joined."""

    name: bytes
    data: bytes


class SseSplitter:
    """Comments, `id:` and `retry:` are skipped, as are events without data. After too long a line nothing follows."""

    def __init__(self, *, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self.has_overflowed = False
        self._max_line_bytes = max_line_bytes
        self._rest = bytearray()
        self._ended_with_cr = False
        self._name = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """The events that are complete with `chunk`."""
        if not chunk or self.has_overflowed:
            return []
        if self._ended_with_cr:
            chunk = chunk.removeprefix(b"\n")
            self._ended_with_cr = False
        if chunk.endswith(b"\r"):
            self._ended_with_cr = True
        first, *others = _LINE_END.split(chunk)
        events: list[ServerEvent] = []
        self._rest += first
        for piece in others:
            if self._overflows():
                return events
            events += self._take_line(bytes(self._rest))
            self._rest[:] = piece
        self._overflows()
        return events

    def flush(self, *, with_rest: bool) -> list[ServerEvent]:
        """The event that lacks its blank line; the line that lacks its end is part of it only `with_rest`."""
        if with_rest and self._rest:
            self._take_line(bytes(self._rest))
        self._rest.clear()
        return self._dispatch()

    def _overflows(self) -> bool:
        if len(self._rest) > self._max_line_bytes:
            self.has_overflowed = True
            self._rest.clear()
        return self.has_overflowed

    def _take_line(self, line: bytes) -> list[ServerEvent]:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._name = value
        return []

    def _dispatch(self) -> list[ServerEvent]:
        name, data = self._name, self._data
        self._name, self._data = b"", []
        return [ServerEvent(name, b"\n".join(data))] if data else []
