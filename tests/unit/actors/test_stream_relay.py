"""A mirror is what its source is, or the beginning of it: whatever is lost, doubled or overtaken on the way."""

from collections import deque
from typing import Any, cast
from uuid import uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.actors import stream_relay as relay_module
from server.actors.heartbeat import Lease
from server.actors.peer_notifier import PeerNotifier
from server.actors.stream_relay import StreamRelay
from server.encoding import dumps
from server.inference.events import CallHead, Delta, Segment
from server.model_request import RequestId, mint_id
from server.transcript import START, Transcript

EPOCH = 3

_texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4)
_deltas = st.lists(
    st.one_of(
        st.builds(
            Delta, _texts, st.sampled_from([Segment.OUTPUT, Segment.REASONING]), st.just(0), st.just(""), st.none()
        ),
        st.builds(
            lambda text, number: Delta(text, Segment.TOOL_CALL, number, f"tool{number}"),
            st.just("") | _texts,
            st.integers(0, 2),
        ),
    ),
    max_size=25,
)


class Wire:
    """Stands for the hints of one instance: what it says waits to be delivered, or not."""

    def __init__(self) -> None:
        self.lease = Lease()
        self.lease.live_instances = 2
        self.waiting: deque[list[Any]] = deque()

    def notify(self, _to: object, *message: Any) -> None:
        self.notify_all(*message)

    def notify_all(self, *message: Any) -> None:
        self.waiting.append(orjson.loads(dumps(message)))

    def relay(self, runs: dict[tuple[RequestId, int], Transcript]) -> StreamRelay:
        return StreamRelay(cast("PeerNotifier", self), lease=self.lease, find_run=lambda *run: runs.get(run))


class Pair:
    """The owner of a run, and an instance that has a reader of it."""

    def __init__(self) -> None:
        self.id = mint_id()
        self.source = Transcript()
        self.owner_wire, self.reader_wire = Wire(), Wire()
        self.owner = self.owner_wire.relay({(self.id, EPOCH): self.source})
        self.reader = self.reader_wire.relay({})
        mirror = self.reader.find(self.id, EPOCH)
        assert mirror is not None
        self.mirror = mirror
        self.mirror.readers.add(lambda: None)

    def deliver(self, message: list[Any]) -> None:
        kind, *details = message
        if kind == "follow":
            self.owner.send_to(*details)
        else:
            self.reader.take_text(*details)

    def pass_on(self, fate: int) -> None:
        """One hint of either side: delivered, lost, doubled, or put behind all others."""
        for wire in (self.reader_wire, self.owner_wire):
            if wire.waiting:
                message = wire.waiting.popleft()
                if fate == 3:
                    wire.waiting.append(message)
                for _ in range((1, 0, 2, 0)[fate]):
                    self.deliver(message)

    def pass_all_on(self) -> None:
        while self.reader_wire.waiting or self.owner_wire.waiting:
            self.pass_on(0)


def content(transcript: Transcript) -> list[Any]:
    """Segment by segment, each followed by its characters: a call may have no arguments yet."""
    found: list[Any] = []
    run = -1
    for part in transcript.since(START, limit=1):
        if part.end.run != run:
            run = part.end.run
            found.append((part.segment, part.number, part.name))
        found += part.text
    return found


@given(_deltas, st.lists(st.integers(0, 3), max_size=80), st.data())
def test_a_mirror_is_a_prefix_of_its_source_and_complete_after_a_repetition(
    deltas: list[Delta], fates: list[int], data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(relay_module, "PART_CHARS", 2)
        monkeypatch.setattr(relay_module, "_GAP_PAUSE_S", -1.0)
        monkeypatch.setattr(relay_module, "ASK_INTERVAL_S", 0.0)
        monkeypatch.setattr(relay_module, "FIRST_ASK_INTERVAL_S", 0.0)
        pair = Pair()
        for delta in deltas:
            pair.source.append(delta)
            if data.draw(st.booleans()):
                pair.owner._send()
            pair.pass_on(fates.pop() if fates else 0)
            mirrored = content(pair.mirror)
            assert mirrored == content(pair.source)[: len(mirrored)]
        for fate in fates:
            pair.owner._send()
            pair.pass_on(fate)
            mirrored = content(pair.mirror)
            assert mirrored == content(pair.source)[: len(mirrored)]
        pair.reader._keep_asking()
        pair.pass_all_on()
        pair.owner._send()
        pair.pass_all_on()
        assert content(pair.mirror) == content(pair.source)


def test_a_long_text_is_sent_in_turns() -> None:
    pair = Pair()
    pair.source.append(Delta("x" * 1_000_000))
    pair.source.is_complete = True
    pair.pass_on(0)
    sizes = []
    while pair.owner._outboxes:
        pair.owner._send()
        sizes.append(len(pair.owner_wire.waiting))
        pair.pass_all_on()
    assert max(sizes) == relay_module.PARTS_AT_ONCE
    assert pair.mirror.length == 1_000_000
    assert not pair.source.readers


BAD_ASKS: list[list[Any]] = [
    ["{id}", EPOCH, 1.5, 0, "{reader}"],
    ["{id}", EPOCH, "0", 0, "{reader}"],
    ["{id}", EPOCH, None, 0, "{reader}"],
    ["{id}", EPOCH, 0, [], "{reader}"],
    ["{id}", EPOCH, 0, 0, "nobody"],
    ["nothing", EPOCH, 0, 0, "{reader}"],
]


@pytest.mark.parametrize("ask", BAD_ASKS)
def test_an_ask_that_makes_no_sense_leaves_nothing_behind(ask: list[Any]) -> None:
    pair = Pair()
    known = {"{id}": str(pair.id), "{reader}": str(uuid4())}
    with pytest.raises((TypeError, ValueError)):
        pair.owner.send_to(*(known.get(str(value), value) for value in ask))
    pair.source.append(Delta("text"))
    pair.owner._send()
    assert not pair.owner._outboxes


@pytest.mark.parametrize("offset", [-5, 0, 2, 2**62])
def test_an_ask_for_any_place_is_answered_with_what_there_is(offset: int) -> None:
    pair = Pair()
    pair.source.append(Delta("text"))
    pair.owner.send_to(str(pair.id), EPOCH, offset, -1, str(uuid4()))
    pair.owner._send()
    sent = "".join(message[-1] for message in pair.owner_wire.waiting)
    assert sent == "text"[max(offset, 0) :]


@pytest.mark.parametrize(
    "details", [(0, 0, "output", 0, "", ["a"]), (0, 0, "nonsense", 0, "", "a"), (0, 0, "output", "0", "", "a")]
)
def test_text_that_is_none_is_not_taken(details: tuple[Any, ...]) -> None:
    pair = Pair()
    with pytest.raises((TypeError, ValueError)):
        pair.reader.take_text(str(pair.id), EPOCH, *details)
    assert pair.mirror.end == START


def test_a_later_run_replaces_the_mirror_of_an_earlier_one() -> None:
    pair = Pair()
    later = pair.reader.find(pair.id, EPOCH + 1)
    assert later is not pair.mirror
    assert pair.reader.find(pair.id, EPOCH) is None
    pair.reader.take_text(str(pair.id), EPOCH, 0, 0, "output", 0, "", "old")
    assert later is not None
    assert later.end == START


def test_t8_the_id_of_a_tool_call_reaches_the_mirror() -> None:
    pair = Pair()
    pair.source.append(Delta("{}", Segment.TOOL_CALL, 0, "f", CallHead("functions.f:0")))
    pair.owner.send_to(str(pair.id), EPOCH, 0, -1, str(uuid4()))
    pair.owner._send()
    pair.pass_all_on()
    [part] = pair.mirror.since(START, limit=9)
    assert part.head == CallHead("functions.f:0")
