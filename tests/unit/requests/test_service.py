"""Using a request: only one's own, a cancel that is waited for, a delete with an end for its readers."""

import asyncio
from collections.abc import Awaitable, Callable

import orjson
import pytest

from server.actors.subscription import View
from server.errors import NotFound, Unavailable
from server.model_request import InstanceId, RequestId, Status, mint_id
from server.requests import service as service_module
from server.requests.history import Filters
from server.requests.service import CANCEL_WAIT_S
from server.transcript import Final, Part, StatusChange, Transcript
from tests.fakes.clock import Clock
from tests.unit.requests.services import ALICE, BOB, Desk

AWAY = Unavailable("The database is not available; try again.", retry_after_s=2)


@pytest.fixture
def desk(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(service_module, "time", clock)
    return Desk()


async def test_get_returns_the_request_as_it_is_stored(desk: Desk) -> None:
    view = await desk.service.get(ALICE, request_id := desk.own("completed", output_data=b'{"output":"Hi"}'))
    assert (view.status, view.epoch) == (Status.COMPLETED, 1)
    found = orjson.loads(view.body or b"")
    assert (found["id"], found["output_data"]) == (str(request_id), {"output": "Hi"})


async def test_page_lists_the_requests_of_the_user(desk: Desk) -> None:
    desk.statements.answers["list_requests"] = []
    page = await desk.service.page(BOB, Filters(limit=5))
    assert (page.objects, page.next_cursor) == ([], None)
    assert desk.statements.args_of("list_requests")[0][0] == BOB


async def _get(desk: Desk, request_id: RequestId) -> None:
    await desk.service.get(BOB, request_id)


async def _cancel(desk: Desk, request_id: RequestId) -> None:
    await desk.service.cancel(BOB, request_id)


async def _delete(desk: Desk, request_id: RequestId) -> None:
    await desk.service.delete(BOB, request_id)


async def _stream(desk: Desk, request_id: RequestId) -> None:
    with desk.service.follow(request_id) as follower:
        await desk.service.stream(BOB, follower).open()


@pytest.mark.parametrize("use", [_get, _cancel, _delete, _stream])
async def test_a_request_of_another_user_does_not_exist(
    desk: Desk, use: Callable[[Desk, RequestId], Awaitable[None]]
) -> None:
    request_id = desk.own("processing", user_id=ALICE)
    with desk.feeds.open(BOB) as feed, pytest.raises(NotFound, match="no model request of yours"):
        await use(desk, request_id)
    assert await feed.wait(0) == []
    assert desk.runs.cancelled == []
    assert desk.deletions == 0
    assert len(desk.subscriptions) == 0
    assert all(BOB in args and ALICE not in args for _, args in desk.statements.asked)


async def test_the_last_known_state_helps_while_the_database_is_away(desk: Desk) -> None:
    desk.statements.answers["get_request"] = AWAY
    with desk.service.watch(mint_id()) as watch:
        with pytest.raises(Unavailable):
            await desk.service.last_known(ALICE, watch)
        watch.seen = View(Status.PENDING, 0)
        with pytest.raises(Unavailable):
            await desk.service.last_known(ALICE, watch)
        watch.seen = View(Status.PENDING, 0, b"{}")
        assert await desk.service.last_known(ALICE, watch) == View(Status.PENDING, 0, b"{}")


async def test_the_last_known_state_is_that_of_the_database_while_it_answers(desk: Desk) -> None:
    with desk.service.watch(desk.own("completed")) as watch:
        watch.seen = View(Status.PENDING, 0, b"{}")
        assert (await desk.service.last_known(ALICE, watch)).status is Status.COMPLETED


async def test_a_stream_tells_what_runs_and_what_was_stored(desk: Desk) -> None:
    request_id = desk.own("completed", output_data=b'{"output":"Hi there"}')
    with desk.service.follow(request_id) as follower:
        stream = desk.service.stream(ALICE, follower)
        assert await stream.open()
        events = [event async for batch in stream.batches() for event in batch]
    text, end = [event.value for event in events]
    assert isinstance(text, Part)
    assert text.text == "Hi there"
    assert isinstance(end, Final)
    assert end.status is Status.COMPLETED


async def test_a_stream_finds_the_text_of_a_run(desk: Desk) -> None:
    transcript = Transcript.rebuild({"output": "Hi "})
    desk.runs.transcripts[1] = transcript
    request_id = desk.own("processing")
    with desk.service.follow(request_id) as follower:
        stream = desk.service.stream(ALICE, follower)
        assert await stream.open()
        batches = stream.batches()
        first = await anext(batches)
        await batches.aclose()
    assert [type(event.value) for event in first] == [StatusChange, Part]


async def test_cancelling_what_waits_ends_it_and_tells_everyone(desk: Desk) -> None:
    request_id = desk.own("cancelled")
    with desk.feeds.open(ALICE) as feed, desk.service.watch(request_id) as watch:
        view = await desk.service.cancel(ALICE, request_id)
        assert await watch.wait(0) == View(Status.CANCELLED, 1)
        assert [change.status for change in await feed.wait(0.01)] == [Status.CANCELLED]
    assert view.status is Status.CANCELLED
    assert view.body is not None
    assert desk.runs.cancelled == []


async def test_cancelling_what_runs_asks_its_owner_and_waits_for_the_end(desk: Desk) -> None:
    owner = InstanceId(mint_id())
    request_id = desk.own("processing", owner=owner)

    def end() -> None:
        desk.change(request_id, status="cancelled")
        desk.subscriptions.publish(request_id, View(Status.CANCELLED, 1))

    desk.runs.on_cancel = end
    view = await desk.service.cancel(ALICE, request_id)
    assert view.status is Status.CANCELLED
    assert desk.runs.cancelled == [(request_id, owner)]


async def test_an_owner_out_of_reach_is_asked_again_until_the_time_is_up(
    desk: Desk, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pass_time() -> None:
        clock.now += 1

    monkeypatch.setattr(service_module, "_ASK_AGAIN_S", 0.001)
    desk.runs.on_cancel = pass_time
    view = await desk.service.cancel(ALICE, desk.own("processing"))
    assert view.status is Status.PROCESSING
    assert len(desk.runs.cancelled) == CANCEL_WAIT_S


async def test_cancelling_what_has_ended_changes_nothing(desk: Desk) -> None:
    request_id = desk.own("completed")
    desk.statements.answers["cancel_request"] = []
    assert (await desk.service.cancel(ALICE, request_id)).status is Status.COMPLETED
    assert desk.runs.cancelled == []


async def test_deleting_what_runs_ends_it_first(desk: Desk) -> None:
    request_id = desk.own("processing")

    def end() -> None:
        desk.change(request_id, status="cancelled")
        desk.subscriptions.publish(request_id, View(Status.CANCELLED, 1))

    desk.runs.on_cancel = end
    with desk.service.watch(request_id) as reader:
        await desk.service.delete(ALICE, request_id)
        assert await reader.wait(0) == View(Status.CANCELLED, 1)
    assert desk.statements.names == ["cancel_request", "get_request", "delete_request"]
    assert desk.deletions == 1


async def test_deleting_what_somebody_deleted_meanwhile_finds_nothing(desk: Desk) -> None:
    request_id = desk.own("completed")
    desk.statements.answers |= {"cancel_request": [], "delete_request": []}
    with pytest.raises(NotFound):
        await desk.service.delete(ALICE, request_id)
    assert desk.deletions == 0


async def test_a_cancel_that_its_client_gave_up_leaves_no_subscription(desk: Desk) -> None:
    is_asked = asyncio.Event()
    desk.runs.on_cancel = is_asked.set
    task = asyncio.create_task(desk.service.cancel(ALICE, desk.own("processing")))
    await is_asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(desk.subscriptions) == 0
