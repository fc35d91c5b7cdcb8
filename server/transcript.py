"""The text of a generation as it grows, and the events that report it to readers. Pure.

A transcript is a sequence of segments in the order of their arrival. A reader may stop and resume at any code point.
"""

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from server.inference.events import REFUSAL, CallHead, Delta, Segment
from server.model_request import RequestId, Status

Shape = list[list[Any]]
"""The order of the segments: `[segment, code points]`, for a tool call followed by its number."""

_KEPT_AS = {Segment.OUTPUT: "output", Segment.REASONING: "reasoning"}


class Position(NamedTuple):
    """How much of a transcript a reader has: code points, and the index of the last run that it has seen.

    The run is needed because a tool call without arguments has no code points.
    """

    offset: int
    run: int


START = Position(0, -1)


class Part(NamedTuple):
    """A piece of one segment. `end` is the position after it."""

    segment: Segment
    number: int
    name: str
    text: str
    end: Position
    head: CallHead | None = None


class StatusChange(NamedTuple):
    """The request is in another state, or another instance has claimed it."""

    request_id: RequestId
    status: Status


class Reset(NamedTuple):
    """The text sent so far is void; the text that follows replaces it."""

    request_id: RequestId


class Final(NamedTuple):
    """The request has ended; `body` is its public object as JSON, which all readers share."""

    status: Status
    body: bytes


EventValue = Part | StatusChange | Reset | Final
"""The content of an event of a stream. A `Part` is new text."""


@dataclass(slots=True)
class _Run:
    """Consecutive deltas of one segment; `ends` are the positions after each of its `pieces`."""

    segment: Segment
    number: int
    name: str
    start: int
    head: CallHead | None = None
    pieces: list[str] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.ends[-1] if self.ends else self.start

    def take(self, offset: int, limit: int) -> str:
        """Up to `limit` code points from `offset` on, which is before the end of the transcript.

        No more than that is joined, so that a blocked reader holds no copy of the rest.
        """
        index = bisect_right(self.ends, offset)
        skip = offset - (self.ends[index - 1] if index else self.start)
        found, size = [self.pieces[index][skip : skip + limit]], self.ends[index] - offset
        while size < limit and (index := index + 1) < len(self.pieces):
            found.append(self.pieces[index])
            size = self.ends[index] - offset
        return found[0] if len(found) == 1 else "".join(found)[:limit]


class Transcript:
    """Append-only, so that a position stays valid.

    Readers read at their own speed and are called after each append. No reader is waited for.
    """

    __slots__ = ("_runs", "is_complete", "is_kept", "is_void", "length", "model", "readers", "replaced")

    def __init__(self) -> None:
        self._runs: list[_Run] = []
        self.length = 0
        self.is_complete = False
        """Whether the last delta was appended."""
        self.is_kept = False
        """Whether it was stored as well. An ended run may store less than its readers received."""
        self.is_void = False
        """Whether another text is stored: the end of the answer showed that its beginning was reasoning."""
        self.replaced = 0
        """The length of the void transcript that this stored one replaced; 0 where there was none."""
        self.model: str | None = None
        """The model that is answering; None until it is known."""
        self.readers: set[Callable[[], None]] = set()

    def append(self, delta: Delta) -> None:
        """Append a delta and call the readers."""
        run = self._runs[-1] if self._runs else None
        if run is None or run.segment is not delta.segment or run.number != delta.number:
            begun = self._find_call(delta) if delta.segment is Segment.TOOL_CALL else None
            name, head = (delta.name, delta.head) if begun is None else (begun.name, begun.head)
            run = _Run(delta.segment, delta.number, name, self.length, head)
            self._runs.append(run)
        if delta.text:
            self.length += len(delta.text)
            run.pieces.append(delta.text)
            run.ends.append(self.length)
        for wake in self.readers:
            wake()

    @property
    def end(self) -> "Position":
        """The position of a reader that has everything."""
        return Position(self.length, len(self._runs) - 1)

    def at(self, offset: int) -> "Position":
        """The position of a reader that has everything up to `offset`."""
        return Position(offset, bisect_left(self._runs, offset, key=lambda run: run.start) - 1)

    def since(self, position: "Position", *, limit: int) -> Iterator[Part]:
        """The text after `position`, in parts of at most `limit` code points."""
        for index in range(max(position.run, 0), len(self._runs)):
            run = self._runs[index]
            begin = max(position.offset, run.start)
            if run.end == run.start >= position.offset and index > position.run:
                yield Part(run.segment, run.number, run.name, "", Position(run.start, index), run.head)
            while run.end > begin:
                text = run.take(begin, limit)
                begin += len(text)
                yield Part(run.segment, run.number, run.name, text, Position(begin, index), run.head)

    def text_of(self, segment: Segment) -> str:
        """All of one segment, joined."""
        return "".join(piece for run in self._runs if run.segment is segment for piece in run.pieces)

    def has(self, segment: Segment) -> bool:
        """Whether any delta of this segment was appended."""
        return any(run.segment is segment for run in self._runs)

    def partial(self) -> dict[str, Any] | None:
        """`output_data` of a generation that failed or was cancelled; None where there is no text."""
        if not self._runs:
            return None
        data: dict[str, Any] = {"output": self.text_of(Segment.OUTPUT), "partial": True}
        if reasoning := self.text_of(Segment.REASONING):
            data["reasoning"] = reasoning
        if calls := self._tool_calls():
            data["tool_calls"] = calls
        if any(run.name == REFUSAL and run.segment is Segment.OUTPUT for run in self._runs):
            data["refused"] = True
        return data

    def shape(self) -> Shape | None:
        """The order of the segments, stored with `output_data`; None for the usual order, which most have."""
        order = [(_RANK[run.segment], run.number) for run in self._runs]
        if all(earlier < later for earlier, later in itertools.pairwise(order)):
            return None
        return [
            [run.segment, run.end - run.start, *([run.number] if run.segment is Segment.TOOL_CALL else [])]
            for run in self._runs
        ]

    def shape_of_other(self, output_data: Any) -> Shape:
        """The shape of the text that is stored instead of this one.

        Its first entry is an empty segment with the length of this transcript in place of a number.
        """
        texts = _texts_of(output_data)
        order = [[segment, len(text), number] for (segment, number), (_, text) in texts.items()]
        return [[Segment.REASONING, 0, self.length], *order]

    @classmethod
    def rebuild(cls, output_data: Any, shape: Shape | None = None) -> "Transcript":
        """The transcript of a stored `output_data`. Entries of a shape that do not fit it are ignored.

        Rows may be older than this server: of data in another form the result has the text that was found.
        """
        transcript = cls()
        match shape:
            case [[Segment.REASONING, 0, int(replaced)], *_]:
                transcript.replaced = replaced
        texts = _texts_of(output_data)
        wanted: Sequence[Sequence[Any]] = shape or [
            [segment, len(text), number] for (segment, number), (_, text) in texts.items()
        ]
        taken = dict.fromkeys(texts, 0)
        heads = _heads_of(output_data)
        for segment, length, *number in wanted:
            key = (Segment(segment), number[0] if number else 0)
            if key in texts:
                name, text = texts[key]
                head = heads.get(key[1]) if key[0] is Segment.TOOL_CALL else None
                transcript.append(Delta(text[taken[key] : taken[key] + length], *key, name, head))
                taken[key] += length
        transcript.is_complete = transcript.is_kept = True
        return transcript

    def _find_call(self, delta: Delta) -> _Run | None:
        """The first run of a tool call that another segment interrupted."""
        return next((run for run in self._runs if run.segment is delta.segment and run.number == delta.number), None)

    def _tool_calls(self) -> list[dict[str, Any]]:
        calls: dict[int, dict[str, Any]] = {}
        heads: dict[int, dict[str, Any]] = {}
        for run in self._runs:
            if run.segment is Segment.TOOL_CALL:
                call = calls.setdefault(run.number, {"name": run.name, "arguments": ""})
                call["arguments"] += "".join(run.pieces)
                heads.setdefault(run.number, _fields_of(run.head))
        return [heads[number] | {"type": "function", "function": call} for number, call in calls.items()]


_RANK = {Segment.REASONING: 0, Segment.OUTPUT: 1, Segment.TOOL_CALL: 2}


def _texts_of(output_data: Any) -> dict[tuple[Segment, int], tuple[str, str]]:
    """Name and text of each segment, in the usual order."""
    if not isinstance(output_data, dict):
        return {}
    names = {Segment.OUTPUT: REFUSAL} if output_data.get("refused") is True else {}
    texts = {
        (segment, 0): (names.get(segment, ""), text)
        for segment in (Segment.REASONING, Segment.OUTPUT)
        if isinstance(text := output_data.get(_KEPT_AS[segment]), str) and text
    }
    calls = output_data.get("tool_calls")
    for number, call in enumerate(calls if isinstance(calls, list) else ()):
        match call:
            case {"function": {"name": str(name), "arguments": str(arguments)}}:
                texts[Segment.TOOL_CALL, number] = name, arguments
    return texts


def _heads_of(output_data: Any) -> dict[int, CallHead]:
    """The heads of the tool calls that have one."""
    calls = output_data.get("tool_calls") if isinstance(output_data, dict) else None
    heads: dict[int, CallHead] = {}
    for number, call in enumerate(calls if isinstance(calls, list) else ()):
        if isinstance(call, dict):
            call_id, extra = call.get("id"), call.get("extra_content")
            head = CallHead(call_id if isinstance(call_id, str) else "", extra if isinstance(extra, dict) else None)
            if head != CallHead():
                heads[number] = head
    return heads


def _fields_of(head: CallHead | None) -> dict[str, Any]:
    """The head as fields of a tool call."""
    return {} if head is None else {name: value for name, value in head._asdict().items() if value}
