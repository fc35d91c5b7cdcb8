"""The generator: what is stopped, lost, or waits for the lease; and that the actor goes on."""

import asyncio
import time

import pytest

from server.actors import generator as generator_module
from server.actors.subscription import View
from server.actors.workload import StopReason
from server.inference.events import Completed, Delta, Started
from server.model_request import InstanceId, Status, Usage, mint_id
from tests.unit.actors.generators import Desk

DONE = Completed({"output": "Hi there"}, Usage(5, 2), "org/model")


async def test_a_cancel_during_the_call_records_what_came_until_then() -> None:
    desk = Desk(Started("org/model"), Delta("Hi "), asyncio.Event(), DONE)
    request = desk.claimed()
    with desk.subscriptions.watch(request.id) as watch:
        task = desk.begin(request)
        await desk.upstream.is_waiting.wait()
        assert desk.workload.stop(request.id, StopReason.CANCELLED)
        await task
        view = await watch.wait(0)
    [row] = desk.journal.recorded
    assert (row.status, row.error_code, row.model) == ("cancelled", None, "org/model")
    assert desk.output_data == {"output": "Hi ", "partial": True}
    assert view is not None
    assert view.status is Status.CANCELLED


async def test_a_cancel_before_the_call_records_nothing_but_the_end() -> None:
    desk = Desk(DONE)
    request = desk.claimed()
    desk.workload.add(request)
    assert desk.workload.stop(request.id, StopReason.CANCELLED)
    await desk.process(request)
    [row] = desk.journal.recorded
    assert (row.status, row.output_data) == ("cancelled", None)
    assert desk.upstream.calls == []


async def test_a_shutdown_gives_the_row_back_at_once() -> None:
    desk = Desk(Delta("Hi "), asyncio.Event())
    request = desk.claimed()
    task = desk.begin(request)
    await desk.upstream.is_waiting.wait()
    assert desk.workload.stop_all(StopReason.SHUTDOWN) == 1
    await task
    [row] = desk.journal.released
    assert (row.delay_s, row.error_code, row.error_msg) == (0.0, None, None)
    assert desk.journal.recorded == []


async def test_a_row_that_another_instance_took_over_is_left_alone() -> None:
    desk = Desk(Delta("Hi "), asyncio.Event())
    request = desk.claimed()
    task = desk.begin(request)
    await desk.upstream.is_waiting.wait()
    assert desk.workload.stop(request.id, StopReason.LOST)
    await task
    assert desk.journal.recorded == []
    assert desk.journal.released == []


async def test_a_row_claimed_under_an_id_that_is_dead_is_not_run() -> None:
    desk = Desk(DONE)
    request = desk.claimed(owner=InstanceId(mint_id()))
    with desk.subscriptions.follow(request.id) as follower:
        await desk.process(request)
        assert follower.take_update() is None
    assert desk.upstream.calls == []
    assert desk.journal.recorded == []
    assert desk.journal.released == []


async def test_no_call_is_made_before_the_lease_is_trusted() -> None:
    desk = Desk(DONE)
    instance_id = desk.lease.instance_id
    desk.lease.replace()
    desk.lease.instance_id = instance_id
    request = desk.claimed()
    with desk.subscriptions.follow(request.id) as follower:
        task = desk.begin(request)
        await follower.wait(10)
        assert follower.take_update() == View(Status.PROCESSING, 1)
        await asyncio.sleep(0)
        assert desk.upstream.calls == []
        desk.lease.renewed(time.monotonic())
        await task
    assert len(desk.upstream.calls) == 1
    assert [row.status for row in desk.journal.recorded] == ["completed"]


async def test_files_that_are_not_stored_in_time_fail_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator_module, "STORING_S", 0.0)
    desk = Desk(Delta("Hi there"), DONE)
    desk.files.output.gate = asyncio.Event()
    await desk.process(deadline_left_s=0.05)
    [row] = desk.journal.recorded
    assert (row.status, row.error_code) == ("failed", "SERVER_ERROR")
    assert row.error_msg == "Not finished by its deadline: the storage for files was too slow."
    assert desk.output_data == {"output": "Hi there", "partial": True}
    assert desk.files.output.discards == 1


async def test_a_cancelled_actor_closes_its_call_and_records_nothing() -> None:
    desk = Desk(Delta("Hi "), asyncio.Event())
    task = desk.begin(desk.claimed())
    await desk.upstream.is_waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    desk.assert_nothing_is_held()
    assert desk.journal.recorded == []
    assert desk.journal.released == []


async def test_the_slot_is_held_until_the_outcome_is_committed() -> None:
    desk = Desk(DONE)
    used = []
    desk.slots.watch(lambda: used.append(len(desk.journal.recorded)))
    await desk.process()
    assert used == [1]


async def test_the_actor_takes_one_request_after_the_other_and_survives_their_failures() -> None:
    gate = asyncio.Event()
    desk = Desk(gate, ValueError("a bug"))
    one, two = desk.claimed(), desk.claimed()
    desk.slots.capacity = 2
    desk.slots.reserve(2)
    for request in (one, two):
        desk.queue.put_nowait(request)
    actor = asyncio.create_task(desk.generator.run())
    await desk.upstream.is_waiting.wait()
    assert desk.queue.qsize() == 1
    gate.set()
    async with asyncio.timeout(10):
        await desk.slots.wait_idle()
    actor.cancel()
    await asyncio.wait({actor})
    assert [row.id for row in desk.journal.recorded] == [one.id, two.id]
    desk.assert_nothing_is_held()
