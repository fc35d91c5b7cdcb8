"""A model request as a stream of events: its states, its text as it grows, resets, and exactly one end.

The id of an event says where the stream stands after it, `epoch.try-offset`: the claim that produces the text, which
call of that claim (always the first: what has sent text is not called again), and how many code points of its
transcript were sent. The end stands one beyond its transcript. Resuming is slicing: from memory while the request runs,
from what was stored afterwards.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any, NamedTuple

from server.actors.subscription import StreamSubscription, View
from server.encoding import dumps
from server.errors import NotFound, Unavailable
from server.inference.events import Segment
from server.model_request import RequestId, Status
from server.transcript import START, Part, Position, Transcript

HEARTBEAT_S = 15.0
DELTA_CHARS = 16 * 1024
"""Longer text is cut: a client with little memory has to hold one event at a time."""
BATCH_CHARS = 64 * 1024
"""What is written at once; whoever reads slowly gets the next batch when this one is on its way."""
_TRY = 1
_LOOK_AGAIN_S = 1.0
_CURSOR = re.compile(r"(\d{1,9})\.(\d{1,9})-(\d{1,9})", re.ASCII)


class Cursor(NamedTuple):
    """Where a reader stands, as the id of an event says it."""

    epoch: int
    attempt: int
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.attempt}-{self.offset}"


UNKNOWN = Cursor(-1, _TRY, 1)
"""Of a reader who has something of which we cannot say what it is: it is told to begin anew."""


def parse_cursor(text: str) -> Cursor | None:
    match = _CURSOR.fullmatch(text)
    return None if match is None else Cursor(int(match[1]), int(match[2]), int(match[3]))


class StreamEvent(NamedTuple):
    """One server-sent event; `data` is JSON."""

    cursor: Cursor
    name: str
    data: bytes


ReadView = Callable[[], Awaitable[View | None]]
ReadStored = Callable[[], Awaitable[Transcript | None]]
FindLive = Callable[[RequestId, int], Transcript | None]


class RequestStream:
    """One reader's stream of one request. A slow reader keeps nobody waiting: it gets larger pieces, later.

    `open` it within its follower, then take the batches.
    """

    def __init__(
        self,
        follower: StreamSubscription,
        *,
        read_view: ReadView,
        read_stored: ReadStored,
        find_live: FindLive,
        after: Cursor | None = None,
    ) -> None:
        self._follower = follower
        self._read_view = read_view
        self._read_stored = read_stored
        self._find_live = find_live
        self._epoch = 0
        self._position = START
        if after is not None:
            self._epoch = after.epoch if after.attempt == _TRY else UNKNOWN.epoch
            self._position = Position(after.offset, -1)
        self._transcript: Transcript | None = None
        self._told: tuple[Status, int] | None = None
        self.is_over = False
        """Whether the final event was handed out."""

    async def open(self) -> bool:
        """Read how the request stands, if that is not known; False when nothing follows what the reader has.

        Raises `NotFound`.
        """
        view = self._follower.seen or await self._read_view()
        if view is None:
            raise NotFound("There is no model request of yours with this id.")
        self._see(view)
        if not view.status.is_final or self._epoch != view.epoch or not self._position.offset:
            return True
        self._transcript = await self._read_stored()
        return self._transcript is None or self._position.offset != self._transcript.length + 1

    async def batches(self, *, heartbeat_s: float | None = None) -> AsyncGenerator[list[StreamEvent], None]:
        """Events as they come, some at a time; an empty batch when nothing came for `heartbeat_s` (`HEARTBEAT_S`).

        It ends after the final event, and without one when the server stops.
        """
        heartbeat_s, clock = heartbeat_s or HEARTBEAT_S, asyncio.get_running_loop().time
        view, written_at = self._follower.seen, clock()
        try:
            while view is not None:
                told = await self._with_rest(view) if view.status.is_final else view
                if told is not None:
                    for batch in _batched(self._events(told)):
                        yield batch
                        written_at = clock()
                if self.is_over or self._follower.is_closed:
                    return
                if not view.status.is_final:
                    await self._follower.wait(written_at + heartbeat_s - clock())
                if clock() - written_at >= heartbeat_s:
                    yield []
                    written_at = clock()
                view = await self._current(view)
        finally:
            self._turn_away()

    async def _current(self, known: View) -> View:
        """How the request stands by what was told, or by a look at the row where that was asked for."""
        news = self._follower.take_news()
        if news is not None and news.epoch >= known.epoch:
            known = news
        must_look = self._follower.take_look()
        # Who was stuck has been told of the end as well as to look for it: one object serves all of them.
        has_end = known.status.is_final and known.body is not None
        if not has_end and (must_look or known.status.is_final):
            try:
                known = await self._read_view() or self._gone(known)
            except Unavailable:
                await asyncio.sleep(_LOOK_AGAIN_S)
                self._follower.tell(None)
                return self._follower.seen or known
        self._see(known)
        return known

    def _see(self, view: View) -> None:
        """Remember how it stands: of a request that goes on, without its object."""
        self._follower.seen = view if view.status.is_final else View(view.status, view.epoch)

    def _gone(self, known: View) -> View:
        """It was deleted, which ends it."""
        body = dumps({"id": self._follower.request_id, "status": Status.CANCELLED})
        return View(Status.CANCELLED, known.epoch, body)

    async def _with_rest(self, view: View) -> View | None:
        """The end, once all of it is at hand: its object, and its text as it was stored, which is read if need be."""
        if view.body is None:
            return None
        if self._transcript is None or self._epoch != view.epoch or not self._transcript.is_kept:
            try:
                stored = await self._read_stored()
            except Unavailable:
                await asyncio.sleep(_LOOK_AGAIN_S)
                return None
            if stored is None:  # deleted since its object was read, which would speak of text that nobody has
                view, stored = self._gone(view), Transcript.rebuild({})
            self._turn_to_text(stored)
        return view

    def _events(self, view: View) -> Iterator[StreamEvent]:
        """All that there is to say by now."""
        if view.status is not Status.PENDING or self._epoch == UNKNOWN.epoch:
            yield from self._turn_to(view)
        if not view.status.is_final and self._told != (view.status, view.epoch):
            self._told = (view.status, view.epoch)
            yield StreamEvent(self._cursor, "status", dumps({"id": self._follower.request_id, "status": view.status}))
        if self._transcript is not None:
            for part in self._transcript.since(self._position, limit=DELTA_CHARS):
                self._position = part.end
                yield StreamEvent(self._cursor, "delta", _delta(part))
        if view.status.is_final:
            self.is_over = True
            end = self._cursor._replace(offset=self._position.offset + 1)
            yield StreamEvent(end, view.status.value, view.body or b"{}")

    def _turn_to(self, view: View) -> Iterator[StreamEvent]:
        """Stand where the reader stands in the text of this run; at its beginning, if the reader has another's."""
        is_another = self._epoch != view.epoch
        has_text = self._position > START
        if is_another and not view.status.is_final:
            self._turn_away()
        if view.status is Status.PROCESSING and (self._transcript is None or not self._transcript.is_complete):
            live = self._find_live(self._follower.request_id, view.epoch)
            if live is not None and live is not self._transcript:  # a claim is in the database before it is known here
                self._turn_to_text(live)
                live.readers.add(self._follower.wake)
        self._epoch = view.epoch
        offset = self._position.offset
        length = self._transcript.length if self._transcript is not None and self._transcript.is_complete else offset
        # A mirror of a run elsewhere may be behind its reader for a moment.
        if has_text and (is_another or offset > length):
            self._position = START
            yield StreamEvent(self._cursor, "reset", dumps({"id": self._follower.request_id}))
        elif self._transcript is not None and self._position.run < 0:
            self._position = self._transcript.at(offset)

    def _turn_to_text(self, transcript: Transcript) -> None:
        self._turn_away()
        self._transcript = transcript
        self._position = Position(self._position.offset, -1)

    def _turn_away(self) -> None:
        if self._transcript is not None:
            self._transcript.readers.discard(self._follower.wake)
            self._transcript = None

    @property
    def model(self) -> str | None:
        """Which model is answering, where that is known by now."""
        return None if self._transcript is None else self._transcript.model

    @property
    def _cursor(self) -> Cursor:
        return Cursor(max(self._epoch, 0), _TRY, self._position.offset)


def _delta(part: Part) -> bytes:
    data: dict[str, Any] = {"segment": part.segment}
    if part.segment is Segment.TOOL_CALL:
        data |= {"index": part.number, "name": part.name}
    return dumps(data | {"text": part.text})


def _batched(events: Iterator[StreamEvent]) -> Iterator[list[StreamEvent]]:
    batch, size = list[StreamEvent](), 0
    for event in events:
        batch.append(event)
        size += len(event.data)
        if size >= BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
