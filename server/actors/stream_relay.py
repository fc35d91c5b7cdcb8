"""Relays the text of a run to readers on other instances: they request it by a hint, and the owner sends it as hints.

A reader's instance keeps a mirror of the transcript and requests it again every few seconds, from its current end. That
keeps the owner sending, and repairs losses. A new mirror requests it more often, because the owner may have started a
moment ago and not listen yet.
"""

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

from server.actors.heartbeat import Lease
from server.actors.peer_notifier import PeerNotifier
from server.inference.events import CallHead, Delta, Segment
from server.model_request import InstanceId, RequestId
from server.transcript import START, Part, Position, Transcript

PART_CHARS = 800
"""Length of one part. An escaped character takes up to six bytes, and the limit of a hint is 8,000 bytes."""
MAX_CALL_ID = 200
"""Length of the id of a tool call. A longer one, and `extra_content`, are not sent to other instances."""
PARTS_AT_ONCE = 100
"""For one reader's instance, before the turn of the next, so that a long text does not hold up the others."""
PAUSE_S = 0.01
ASK_INTERVAL_S = 3.0
FIRST_ASK_INTERVAL_S = 0.3
"""While a mirror is empty, in its first `_NEW_S`. A model may be silent for longer."""
SEND_FOR_S = 10.0
_NEW_S = 6.0
"""Longer than it takes two instances to learn of each other."""
_GAP_PAUSE_S = 0.2
_UNUSED_FOR_S = 10.0

FindRun = Callable[[RequestId, int], Transcript | None]
Value = TypeVar("Value", int, str)


@dataclass(slots=True)
class _Mirror:
    """The text, as far as known here, of a run on another instance."""

    epoch: int
    transcript: Transcript = field(default_factory=Transcript)
    asked_at: float = 0.0
    made_at: float = field(default_factory=time.monotonic)
    used_at: float = field(default_factory=time.monotonic)

    def is_unanswered(self, now: float) -> bool:
        return self.transcript.end == START and now - self.made_at < _NEW_S


@dataclass(slots=True)
class _Outbox:
    """The progress of another instance in the text of a run here."""

    epoch: int
    transcript: Transcript
    position: Position
    until: float


class StreamRelay:
    """Both ends: mirrors of runs on other instances, and outboxes of runs here."""

    def __init__(self, hints: PeerNotifier, *, lease: Lease, find_run: FindRun) -> None:
        self._hints = hints
        self._lease = lease
        self._find_run = find_run
        self._mirrors: dict[RequestId, _Mirror] = {}
        self._outboxes: dict[tuple[RequestId, InstanceId], _Outbox] = {}
        self._wake_up = asyncio.Event()

    def find(self, request_id: RequestId, epoch: int) -> Transcript | None:
        """The mirror of a run on another instance, filled from now on; None where a later run replaced it."""
        mirror = self._mirrors.get(request_id)
        if mirror is None or mirror.epoch < epoch:
            mirror = self._mirrors[request_id] = _Mirror(epoch)
            self._lease.meet_another()
            self._wake_up.set()
            self._ask(request_id, mirror)
        return mirror.transcript if mirror.epoch == epoch else None

    def wanted(self) -> list[tuple[RequestId, int]]:
        """Id and epoch of the runs on other instances that have readers here."""
        return [(request_id, mirror.epoch) for request_id, mirror in self._mirrors.items() if mirror.transcript.readers]

    async def run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._pause_s()):
                    await self._wake_up.wait()
            except TimeoutError:
                pass
            self._wake_up.clear()
            self._send()
            self._keep_asking()
            await asyncio.sleep(PAUSE_S)

    def send_to(self, request_id: str, epoch: int, offset: int, run: int, reader: str) -> None:
        """Handle a request for the text of a run from a position on. Runs of other instances are ignored."""
        position = Position(_checked(offset, int), _checked(run, int))
        key = (RequestId(UUID(request_id)), InstanceId(UUID(reader)))
        transcript = self._find_run(key[0], epoch)
        if transcript is None:
            return
        self._lease.meet_another()
        outbox = self._outboxes.get(key)
        if outbox is None or outbox.epoch != epoch or outbox.position > position:
            outbox = self._outboxes[key] = _Outbox(epoch, transcript, position, 0.0)
            transcript.readers.add(self._wake_up.set)
        outbox.until = time.monotonic() + SEND_FOR_S
        self._wake_up.set()

    def take_text(
        self,
        request_id: str,
        epoch: int,
        start: int,
        run: int,
        segment: str,
        number: int,
        name: str,
        text: str,
        call_id: str = "",
    ) -> None:
        """Add a part of a run on another instance: of its segment `run`, beginning at `start`.

        Known text is skipped. After a gap the text is requested again.
        """
        head = CallHead(_checked(call_id, str)) if call_id else None
        delta = Delta(_checked(text, str), Segment(segment), _checked(number, int), _checked(name, str), head)
        mirror = self._mirrors.get(RequestId(UUID(request_id)))
        if mirror is None or mirror.epoch != epoch:
            return
        end = mirror.transcript.end
        if start > end.offset or run > end.run + 1:
            if time.monotonic() - mirror.asked_at > _GAP_PAUSE_S:
                self._ask(RequestId(UUID(request_id)), mirror)
        elif run > end.run or (run == end.run and end.offset < start + len(text)):
            mirror.transcript.append(delta._replace(text=text[end.offset - start :]))

    def _ask(self, request_id: RequestId, mirror: _Mirror) -> None:
        mirror.asked_at = time.monotonic()
        end = mirror.transcript.end
        self._hints.notify_all("follow", request_id, mirror.epoch, end.offset, end.run, self._lease.instance_id)

    def _pause_s(self) -> float:
        now = time.monotonic()
        return FIRST_ASK_INTERVAL_S if any(mirror.is_unanswered(now) for mirror in self._mirrors.values()) else 1.0

    def _keep_asking(self) -> None:
        """Repeat the requests for texts with readers; forget mirrors without."""
        now = time.monotonic()
        for request_id, mirror in list(self._mirrors.items()):
            if mirror.transcript.readers:
                mirror.used_at = now
                if now - mirror.asked_at >= (FIRST_ASK_INTERVAL_S if mirror.is_unanswered(now) else ASK_INTERVAL_S):
                    self._ask(request_id, mirror)
            elif now - mirror.used_at >= _UNUSED_FOR_S:
                del self._mirrors[request_id]

    def _send(self) -> None:
        """Send new text to the instances that requested it in the last `SEND_FOR_S`."""
        now = time.monotonic()
        for key, outbox in list(self._outboxes.items()):
            request_id, reader = key
            parts = outbox.transcript.since(outbox.position, limit=PART_CHARS)
            for part in itertools.islice(parts, PARTS_AT_ONCE):
                start, run = part.end.offset - len(part.text), part.end.run
                outbox.position = part.end
                told = _encode(part)
                self._hints.notify(reader, "text", request_id, outbox.epoch, start, run, *told)
            has_more = outbox.position < outbox.transcript.end
            if has_more:
                self._wake_up.set()
            if now >= outbox.until or (outbox.transcript.is_complete and not has_more):
                del self._outboxes[key]
                if all(other.transcript is not outbox.transcript for other in self._outboxes.values()):
                    outbox.transcript.readers.discard(self._wake_up.set)


def _encode(part: Part) -> tuple[Any, ...]:
    """The arguments of `take_text` from `segment` on. Earlier versions know no id of a tool call."""
    call_id = part.head.id if part.head is not None else ""
    encoded = (part.segment, part.number, part.name, part.text)
    return (*encoded, call_id) if 0 < len(call_id) <= MAX_CALL_ID else encoded


def _checked(value: object, kind: type[Value]) -> Value:
    """A value of a hint, checked because every client of the database can send hints."""
    if type(value) is not kind:
        raise TypeError(f"{kind.__name__} expected")
    return value
