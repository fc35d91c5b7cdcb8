"""A model request as a stream of events: its states, its text as it grows, resets, and exactly one end.

The id of an event is the position after it, `epoch.try-offset`: the claim that produces the text, the text of that
claim (the first; the second if the end of an answer shows that its beginning was reasoning), and the number of code
points of the transcript sent so far. The offset of the final event is the length of the transcript plus one. A reader
resumes from the transcript in memory while the request runs, and from the stored output afterwards.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import NamedTuple

from server.actors.subscription import StreamSubscription, View
from server.encoding import dumps
from server.errors import NotFound, Unavailable
from server.model_request import RequestId, Status
from server.transcript import START, EventValue, Final, Part, Position, Reset, StatusChange, Transcript

HEARTBEAT_S = 4.0
"""Clients with short time-outs (10 s is common) must see bytes in time: at least every 5 s, with room for delays."""
DELTA_CHARS = 16 * 1024
"""Longer text is split into several events: a client with little memory holds one event at a time."""
BATCH_CHARS = 32 * 1024
"""Text written at once. A slow reader gets the next batch after it has taken this one."""
_EVENT_CHARS = 64
"""Weight of an event in a batch, in addition to its text."""
_FIRST, _SECOND = 1, 2
"""The texts of one claim."""
_RETRY_S = 1.0
_REST_S = 0.1
_REST_TRIES = 50
_CURSOR = re.compile(r"(\d{1,9})\.(\d{1,9})-(\d{1,9})", re.ASCII)


class Cursor(NamedTuple):
    """The position of a reader, which is the id of the last event that it received."""

    epoch: int
    attempt: int
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.attempt}-{self.offset}"


UNKNOWN = Cursor(-1, _FIRST, 1)
"""The position of a reader whose event id is not one of ours. Its stream begins with a reset."""


def parse_cursor(text: str) -> Cursor | None:
    """None for a text that is not the id of an event."""
    match = _CURSOR.fullmatch(text)
    return None if match is None else Cursor(int(match[1]), int(match[2]), int(match[3]))


class StreamEvent(NamedTuple):
    """One event. It holds no bytes of a protocol: each route encodes the value once, in its own form."""

    cursor: Cursor
    value: EventValue


ReadView = Callable[[], Awaitable[View | None]]
ReadStored = Callable[[], Awaitable[Transcript | None]]
FindLive = Callable[[RequestId, int], Transcript | None]


class RequestStream:
    """One reader's stream of one request. A slow reader delays no other reader: it gets larger pieces, later.

    Enter the subscription, `open` the stream, then read the batches.
    """

    def __init__(
        self,
        subscription: StreamSubscription,
        *,
        read_view: ReadView,
        read_stored: ReadStored,
        find_live: FindLive,
        after: Cursor | None = None,
    ) -> None:
        self._subscription = subscription
        self._read_view = read_view
        self._read_stored = read_stored
        self._find_live = find_live
        self._epoch = 0
        self._attempt = _FIRST
        self._resets = True
        self._position = START
        if after is not None:
            self._epoch = after.epoch if after.attempt in {_FIRST, _SECOND} else UNKNOWN.epoch
            self._attempt = after.attempt
            self._position = Position(after.offset, -1)
        self._transcript: Transcript | None = None
        self._sent: tuple[Status, int] | None = None
        self.is_over = False
        """Whether the final event was returned."""

    async def open(self) -> bool:
        """Read the request, unless its state is known. False when the reader has received everything.

        Raises `NotFound`.
        """
        view = self._subscription.seen or await self._read_view()
        if view is None:
            raise NotFound("There is no model request of yours with this id.")
        self._remember(view)
        if not view.status.is_final or self._epoch != view.epoch or not self._position.offset:
            return True
        self._transcript = await self._read_stored()
        if self._transcript is None or _attempt_of(self._transcript) != self._attempt:
            return True
        return self._position.offset != self._transcript.length + 1

    async def batches(
        self, *, heartbeat_s: float | None = None, has_states: bool = True
    ) -> AsyncGenerator[list[StreamEvent], None]:
        """Events in batches as they occur; an empty batch after `heartbeat_s` (`HEARTBEAT_S`) without an event.

        `has_states=False` leaves out the changes of status, for a protocol that has no bytes for them. Such a reader
        keeps the first text of a claim to its end, because it could not take it back.
        The batches end after the final event, or without one when the server stops.
        """
        self._resets = has_states
        heartbeat_s, clock = heartbeat_s or HEARTBEAT_S, asyncio.get_running_loop().time
        view, written_at = self._subscription.seen, clock()
        try:
            while view is not None:
                ready = await self._load_end(view) if view.status.is_final else view
                if ready is not None:
                    for batch in _batched(self._events(ready, has_states=has_states)):
                        yield batch
                        written_at = clock()
                if self.is_over or self._subscription.is_closed:
                    return
                if not view.status.is_final:
                    await self._subscription.wait(written_at + heartbeat_s - clock())
                if clock() - written_at >= heartbeat_s:
                    yield []
                    written_at = clock()
                view = await self._refresh(view)
        finally:
            self._detach()

    async def _refresh(self, known: View) -> View:
        """The latest view: the one that was published, or the row where a refresh was requested."""
        update = self._subscription.take_update()
        if update is not None and update.epoch >= known.epoch:
            known = update
        must_read = self._subscription.take_read_request()
        # A blocked reader may hold both a final view and a refresh request: then the row is not read.
        has_end = known.status.is_final and known.body is not None
        if not has_end and (must_read or known.status.is_final):
            try:
                known = await self._read_view() or self._deleted(known)
            except Unavailable:
                await asyncio.sleep(_RETRY_S)
                self._subscription.notify(None)
                return self._subscription.seen or known
        self._remember(known)
        return known

    def _remember(self, view: View) -> None:
        """Keep the view in the subscription; while the request runs, without its object."""
        self._subscription.seen = view if view.status.is_final else View(view.status, view.epoch)

    def _deleted(self, known: View) -> View:
        """The final view of a request that was deleted."""
        body = dumps({"id": self._subscription.request_id, "status": Status.CANCELLED})
        return View(Status.CANCELLED, known.epoch, body)

    async def _load_end(self, view: View) -> View | None:
        """The final view, once its object and its stored text are in memory; None until then."""
        if view.body is None:
            return None
        if self._transcript is None or self._epoch != view.epoch or not self._transcript.is_kept:
            try:
                stored = await self._read_stored()
            except Unavailable:
                await asyncio.sleep(_RETRY_S)
                return None
            if stored is None:  # deleted after its object was read: the object names text that no longer exists
                view, stored = self._deleted(view), Transcript.rebuild({})
            if not await self._keeps_first(stored, view):
                self._attach(stored)
        return view

    async def _keeps_first(self, stored: Transcript, view: View) -> bool:
        """Whether the first text goes on to its end. A mirror of a run elsewhere gets some time for the rest of it."""
        first = self._transcript
        if self._resets or not stored.replaced or first is None or self._epoch != view.epoch:
            return False
        for _ in range(_REST_TRIES):
            if first.length >= stored.replaced:
                return True
            await asyncio.sleep(_REST_S)
        return False

    def _events(self, view: View, *, has_states: bool) -> Iterator[StreamEvent]:
        """All events from the reader's position to the present."""
        if view.status is not Status.PENDING or self._epoch == UNKNOWN.epoch:
            yield from self._turn_to(view)
        if has_states and not view.status.is_final and self._sent != (view.status, view.epoch):
            self._sent = (view.status, view.epoch)
            yield StreamEvent(self._cursor, StatusChange(self._subscription.request_id, view.status))
        if self._transcript is not None:
            for part in self._transcript.since(self._position, limit=DELTA_CHARS):
                self._position = part.end
                yield StreamEvent(self._cursor, part)
        if view.status.is_final:
            self.is_over = True
            end = self._cursor._replace(offset=self._position.offset + 1)
            yield StreamEvent(end, Final(view.status, view.body or b"{}"))

    def _turn_to(self, view: View) -> Iterator[StreamEvent]:
        """Find the reader's position in the text of this run; a reader of another run's text gets a reset."""
        is_another = self._epoch != view.epoch
        has_text = self._position > START
        if is_another and not view.status.is_final:
            self._detach()
        if view.status is Status.PROCESSING and (self._transcript is None or not self._transcript.is_complete):
            live = self._find_live(self._subscription.request_id, view.epoch)
            if live is not None and live is not self._transcript:  # a claim is in the database before it is known here
                self._attach(live)
                live.readers.add(self._subscription.wake)
        attempt = _FIRST if self._transcript is None else _attempt_of(self._transcript)
        is_another |= attempt != self._attempt
        self._epoch, self._attempt = view.epoch, attempt
        offset = self._position.offset
        length = self._transcript.length if self._transcript is not None and self._transcript.is_complete else offset
        # A mirror of a run elsewhere may be behind its reader for a moment.
        if has_text and (is_another or offset > length):
            self._position = START
            yield StreamEvent(self._cursor, Reset(self._subscription.request_id))
        elif self._transcript is not None and self._position.run < 0:
            self._position = self._transcript.at(offset)

    def _attach(self, transcript: Transcript) -> None:
        self._detach()
        self._transcript = transcript
        self._position = Position(self._position.offset, -1)

    def _detach(self) -> None:
        if self._transcript is not None:
            self._transcript.readers.discard(self._subscription.wake)
            self._transcript = None

    @property
    def model(self) -> str | None:
        """The model that is answering; None until it is known."""
        return None if self._transcript is None else self._transcript.model

    @property
    def has_ended(self) -> bool:
        """Whether the credential of the reader ended."""
        return self._subscription.has_ended

    @property
    def _cursor(self) -> Cursor:
        return Cursor(max(self._epoch, 0), self._attempt, self._position.offset)


def _attempt_of(transcript: Transcript) -> int:
    return _SECOND if transcript.replaced else _FIRST


def _batched(events: Iterator[StreamEvent]) -> Iterator[list[StreamEvent]]:
    batch, size = list[StreamEvent](), 0
    for event in events:
        batch.append(event)
        size += _EVENT_CHARS + (len(event.value.text) if isinstance(event.value, Part) else 0)
        if size >= BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
