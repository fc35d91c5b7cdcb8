"""What a stream says as its request changes hands: resets, states, and one end. Without a database."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Self, cast

import pytest

from server.actors import subscriptions
from server.actors.subscription import View
from server.actors.subscriptions import Subscriptions
from server.errors import NotFound, Unavailable
from server.http.request_events import encode_event
from server.inference.events import Delta, Segment
from server.model_request import RequestId, Status, mint_id
from server.requests import stream as streams
from server.requests.stream import Cursor, RequestStream, StreamEvent
from server.routes import openai
from server.storage.database import DedicatedConnection
from server.transcript import Final, Part, Reset, StatusChange, Transcript
from tests.signals import until

PENDING, RUNNING = Status.PENDING, Status.PROCESSING


@dataclass
class World:
    """One request, as the database and the memory of this process have it."""

    view: View | None = field(default_factory=lambda: View(PENDING, 0))
    stored: Transcript | None = field(default_factory=lambda: Transcript.rebuild({}))
    live: dict[int, Transcript] = field(default_factory=dict)
    is_away: bool = False
    id: RequestId = field(default_factory=mint_id)
    subscriptions: Subscriptions = field(default_factory=lambda: Subscriptions(cast("DedicatedConnection", None)))

    async def read_view(self) -> View | None:
        if self.is_away:
            raise Unavailable("away", retry_after_s=1)
        return self.view

    async def read_stored(self) -> Transcript | None:
        if self.is_away:
            raise Unavailable("away", retry_after_s=1)
        return self.stored

    def notify(self, status: Status, epoch: int, body: bytes | None = None) -> None:
        self.view = View(status, epoch, body if status.is_final else None)
        self.subscriptions.publish(self.id, self.view)

    def run(self, epoch: int) -> Transcript:
        self.live[epoch] = Transcript()
        self.notify(RUNNING, epoch)
        return self.live[epoch]

    def end(self, epoch: int, text: str, status: Status = Status.COMPLETED) -> None:
        self.stored = Transcript.rebuild({"output": text})
        self.notify(status, epoch, b'{"end":true}')


class Reader:
    """Collects the events of a stream in the background."""

    def __init__(
        self, world: World, after: Cursor | None = None, *, heartbeat_s: float | None = None, has_states: bool = True
    ) -> None:
        self._heartbeat_s = heartbeat_s
        self._has_states = has_states
        self._follower = world.subscriptions.follow(world.id)
        self.stream = RequestStream(
            self._follower,
            read_view=world.read_view,
            read_stored=world.read_stored,
            find_live=lambda _, epoch: world.live.get(epoch),
            after=after,
        )
        self.has_more = False
        self.events: list[StreamEvent] = []
        self.heartbeats = 0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._follower.__enter__()
        self.has_more = await self.stream.open()
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task})
        self._follower.__exit__(None, None, None)

    async def _read(self) -> None:
        async for batch in self.stream.batches(heartbeat_s=self._heartbeat_s, has_states=self._has_states):
            self.events += batch
            self.heartbeats += not batch

    def look(self) -> None:
        """What the sweep of the subscriptions does when a row changed elsewhere."""
        self._follower.notify(None)

    async def settle(self) -> list[str]:
        """Everything that follows from what was done, in short."""
        for _ in range(20):
            await asyncio.sleep(0)
        return [_summary(event) for event in self.events]

    async def end(self) -> list[str]:
        assert self._task is not None
        async with asyncio.timeout(5):
            await self._task
        return [_summary(event) for event in self.events]


def _summary(event: StreamEvent) -> str:
    match event.value:
        case Part():
            name = "delta"
        case Final(status):
            name = status.value
        case StatusChange():
            name = "status"
        case Reset():
            name = "reset"
    return f"{name} {event.cursor}"


def _text(event: StreamEvent) -> str:
    assert isinstance(event.value, Part)
    return event.value.text


def _body(event: StreamEvent) -> bytes:
    assert isinstance(event.value, Final)
    return event.value.body


@pytest.fixture
def world() -> World:
    return World()


async def test_a_request_from_its_place_in_the_backlog_to_its_end(world: World) -> None:
    async with Reader(world) as reader:
        await reader.settle()
        text = world.run(1)
        await reader.settle()
        text.append(Delta("Hello"))
        await reader.settle()
        text.is_complete = text.is_kept = True
        world.end(1, "Hello")
        assert await reader.end() == ["status 0.1-0", "status 1.1-0", "delta 1.1-5", "completed 1.1-6"]
    assert not text.readers


async def test_a_rescued_request_begins_anew(world: World) -> None:
    text = world.run(1)
    text.append(Delta("lost"))
    async with Reader(world) as reader:
        await reader.settle()
        text.is_complete = True
        world.notify(PENDING, 1)
        await reader.settle()
        world.run(2).append(Delta("kept"))
        await reader.settle()
        world.end(2, "kept")
        names = await reader.end()
    assert names[2:] == ["status 1.1-4", "reset 2.1-0", "status 2.1-0", "delta 2.1-4", "completed 2.1-5"]
    assert _text(reader.events[-2]) == "kept"
    assert not text.readers


async def test_a_reader_who_comes_back_to_another_run_is_told_to_begin_anew(world: World) -> None:
    world.run(3).append(Delta("new"))
    async with Reader(world, Cursor(2, 1, 10)) as reader:
        assert await reader.settle() == ["reset 3.1-0", "status 3.1-0", "delta 3.1-3"]


async def test_a_reader_who_had_nothing_of_another_run_needs_no_reset(world: World) -> None:
    world.run(3).append(Delta("new"))
    async with Reader(world, Cursor(2, 1, 0)) as reader:
        assert await reader.settle() == ["status 3.1-0", "delta 3.1-3"]


async def test_a_run_that_another_process_has_is_waited_for(world: World) -> None:
    world.notify(RUNNING, 1)
    async with Reader(world, Cursor(1, 1, 2)) as reader:
        assert await reader.settle() == ["status 1.1-2"]
        world.end(1, "Hello")
        assert await reader.end() == ["status 1.1-2", "delta 1.1-5", "completed 1.1-6"]
    assert _text(reader.events[1]) == "llo"


async def test_a_mirror_that_stayed_behind_is_completed_from_what_was_stored(world: World) -> None:
    mirror = world.run(1)
    async with Reader(world) as reader:
        mirror.append(Delta("Hel"))
        await reader.settle()
        world.end(1, "Hello")
        assert (await reader.end())[-2:] == ["delta 1.1-5", "completed 1.1-6"]


async def test_text_that_was_not_kept_is_taken_back(world: World) -> None:
    world.run(1).append(Delta("Hello"))
    async with Reader(world) as reader:
        await reader.settle()
        world.end(1, "", Status.FAILED)
        assert (await reader.end())[-2:] == ["reset 1.1-0", "failed 1.1-1"]


async def test_text_of_a_run_that_was_handed_back_is_taken_back_when_nothing_follows(world: World) -> None:
    text = world.run(1)
    text.append(Delta("lost"))
    async with Reader(world) as reader:
        await reader.settle()
        text.is_complete = True
        world.notify(PENDING, 1)
        await reader.settle()
        world.end(1, "", Status.CANCELLED)
        assert (await reader.end())[-3:] == ["status 1.1-4", "reset 1.1-0", "cancelled 1.1-1"]


async def test_a_run_that_begins_here_after_its_reader_came_is_read_as_it_grows(world: World) -> None:
    """Its claim is in the database a moment before this process has the answer to it."""
    world.notify(RUNNING, 1)
    world.live[1] = Transcript()  # a mirror, which nobody fills
    async with Reader(world) as reader:
        await reader.settle()
        world.run(1).append(Delta("Hello"))
        assert await reader.settle() == ["status 1.1-0", "delta 1.1-5"]


async def test_a_mirror_that_is_behind_its_reader_repeats_nothing(world: World) -> None:
    mirror = world.run(1)
    async with Reader(world, Cursor(1, 1, 6)) as reader:
        for delta in (Delta("abc"), Delta("", Segment.TOOL_CALL, 0, "now"), Delta("def"), Delta("ghi")):
            mirror.append(delta)
            await reader.settle()
    assert [event.value[:4] for event in reader.events if isinstance(event.value, Part)] == [
        (Segment.OUTPUT, 0, "", "ghi")
    ]


async def test_who_has_a_call_without_arguments_of_another_run_is_told_to_begin_anew(world: World) -> None:
    world.run(1).append(Delta("", Segment.TOOL_CALL, 0, "now"))
    async with Reader(world) as reader:
        await reader.settle()
        world.run(2).append(Delta("kept"))
        assert (await reader.settle())[-3:] == ["reset 2.1-0", "status 2.1-0", "delta 2.1-4"]


async def test_who_has_something_unknown_is_told_to_begin_anew_before_anything_else(world: World) -> None:
    async with Reader(world, streams.UNKNOWN) as reader:
        assert await reader.settle() == ["reset 0.1-0", "status 0.1-0"]


async def test_a_final_event_has_its_object_however_much_others_keep(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "MAX_KEPT_BYTES", 3)
    world.end(1, "Hello")
    async with Reader(world) as reader:
        await reader.end()
    assert _body(reader.events[-1]) == b'{"end":true}'


async def test_an_end_whose_text_cannot_be_read_yet_is_told_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_RETRY_S", 0.0)
    world.notify(RUNNING, 1)
    async with Reader(world) as reader:
        await reader.settle()
        world.is_away = True
        world.end(1, "Hello")
        assert await reader.settle() == ["status 1.1-0"]
        world.is_away = False
        assert (await reader.end())[-2:] == ["delta 1.1-5", "completed 1.1-6"]


async def test_after_the_end_there_is_nothing(world: World) -> None:
    world.end(1, "Hello")
    async with Reader(world, Cursor(1, 1, 6)) as reader:
        assert not reader.has_more
    async with Reader(world, Cursor(1, 1, 5)) as reader:
        assert reader.has_more
        assert await reader.end() == ["completed 1.1-6"]
    async with Reader(world, Cursor(1, 1, 99)) as reader:
        assert await reader.end() == ["reset 1.1-0", "delta 1.1-5", "completed 1.1-6"]


async def test_a_deleted_request_ends_as_cancelled(world: World) -> None:
    world.run(1)
    async with Reader(world) as reader:
        await reader.settle()
        world.view = None
        world.subscriptions.close()
        assert (await reader.end())[-1] == "cancelled 1.1-1"


async def test_an_end_that_was_deleted_before_its_text_was_read_does_not_speak_of_it(world: World) -> None:
    """Whose text came from another process reads it again at the end; a delete cancels first, then removes."""
    world.run(1).append(Delta("Hello"))
    async with Reader(world) as reader:
        await reader.settle()
        world.stored = None
        world.notify(Status.CANCELLED, 1, b'{"output_data":{"output":"Hello"}}')
        assert (await reader.end())[-2:] == ["reset 1.1-0", "cancelled 1.1-1"]
    assert b"output" not in _body(reader.events[-1])


async def test_old_news_change_nothing(world: World) -> None:
    world.run(2)
    async with Reader(world) as reader:
        await reader.settle()
        world.subscriptions.publish(world.id, View(RUNNING, 1))
        assert await reader.settle() == ["status 2.1-0"]


async def test_who_stands_elsewhere_or_nowhere(world: World) -> None:
    world.view = None
    with pytest.raises(NotFound):
        async with Reader(world):
            pass


async def test_a_database_that_is_away_ends_no_stream(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_RETRY_S", 0.0)
    world.run(1)
    async with Reader(world) as reader:
        await reader.settle()
        world.is_away = True
        world.view = View(Status.COMPLETED, 1, b"{}")
        reader.look()
        await reader.settle()
        world.is_away = False
        assert (await reader.end())[-1] == "completed 1.1-1"


async def test_an_end_that_is_all_here_needs_no_database(world: World) -> None:
    """Nor does it of a reader who was asked to look besides: all readers share what they were told."""
    text = world.run(1)
    async with Reader(world) as reader:
        text.append(Delta("Hello"))
        await reader.settle()
        world.is_away = text.is_complete = text.is_kept = True
        world.end(1, "Hello")
        reader.look()
        assert (await reader.settle())[-2:] == ["delta 1.1-5", "completed 1.1-6"]


async def test_a_row_that_was_read_while_it_ran_is_read_again_when_that_is_asked_for(world: World) -> None:
    """What the database answers has an object in every state; only that of the end is the last word."""
    world.view = View(RUNNING, 1, b'{"status":"processing"}')
    async with Reader(world) as reader:
        reader.look()
        assert await reader.settle() == ["status 1.1-0"]
        world.view = View(RUNNING, 2, b'{"status":"processing"}')
        reader.look()
        assert await reader.settle() == ["status 1.1-0", "status 2.1-0"]
        world.stored = Transcript.rebuild({"output": "kept"})
        world.view = View(Status.COMPLETED, 2, b'{"end":true}')
        reader.look()
        assert (await reader.end())[2:] == ["delta 2.1-4", "completed 2.1-5"]


@pytest.mark.parametrize("has_ended", [False, True])
async def test_a_stream_is_kept_alive_while_the_row_cannot_be_read(
    world: World, monkeypatch: pytest.MonkeyPatch, *, has_ended: bool
) -> None:
    """It is tried again and again, more often than a heartbeat comes."""
    monkeypatch.setattr(streams, "_RETRY_S", 0.001)
    monkeypatch.setattr(streams, "HEARTBEAT_S", 0.02)
    world.run(1)
    async with Reader(world) as reader:
        await reader.settle()
        world.is_away = True
        world.subscriptions.publish(world.id, View(Status.CANCELLED if has_ended else RUNNING, 1))
        reader.look()
        await until(lambda: reader.heartbeats >= 3)


async def test_s3_changes_that_a_protocol_does_not_show_delay_no_heartbeat(world: World) -> None:
    """Each change comes before the heartbeat is due, so that a count from the last change would never end."""
    async with Reader(world, heartbeat_s=0.2, has_states=False) as reader:
        for epoch in range(1, 13):
            world.notify(RUNNING, epoch)
            await asyncio.sleep(0.05)
        assert reader.heartbeats >= 1
        assert reader.events == []


def test_s3_a_stream_is_never_silent_for_5_s() -> None:
    assert max(streams.HEARTBEAT_S, openai.HOLD_S) < 5


async def test_a_long_text_is_cut_into_events_that_anyone_can_hold(world: World) -> None:
    text = world.run(1)
    text.append(Delta("é" * 100_000, Segment.REASONING))
    async with Reader(world) as reader:
        await reader.settle()
    deltas = [event for event in reader.events if isinstance(event.value, Part)]
    assert max(len(encode_event(event)) for event in deltas) < 3 * streams.DELTA_CHARS
    assert deltas[-1].cursor.offset == 100_000


async def test_batches_are_bounded_however_far_a_reader_is_behind(world: World) -> None:
    text = world.run(1)
    text.append(Delta("x" * 1_000_000))
    with world.subscriptions.follow(world.id) as follower:
        stream = RequestStream(
            follower,
            read_view=world.read_view,
            read_stored=world.read_stored,
            find_live=lambda _, epoch: world.live.get(epoch),
        )
        await stream.open()
        sizes = []
        batches: AsyncIterator[list[StreamEvent]] = stream.batches()
        async for batch in batches:
            sizes.append(sum(len(encode_event(event)) for event in batch))
            if sum(sizes) > 1_000_000:
                break
    assert max(sizes) < 2 * streams.BATCH_CHARS
