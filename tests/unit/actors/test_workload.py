"""The workload: what is held, what can be stopped, and when nothing is left."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

from server.actors.workload import StopReason, Workload
from server.model_request import InstanceId, ModelRequest, RequestId, UserId, mint_id


def model_request(request_id: RequestId | None = None, *, epoch: int = 1) -> ModelRequest:
    now = datetime.now(UTC)
    return ModelRequest(
        id=request_id or mint_id(),
        user_id=UserId(uuid4()),
        model_type="text2text",
        model=None,
        input_data=b"{}",
        parameters=b"{}",
        owner=InstanceId(uuid4()),
        epoch=epoch,
        attempt=1,
        created_at=now,
        deadline_at=now,
        deadline_left_s=600.0,
    )


async def _forever() -> None:
    await asyncio.Event().wait()


def test_what_was_added_is_held_with_its_epoch_until_it_is_removed() -> None:
    workload = Workload()
    one, two = model_request(), model_request(epoch=4)
    running = workload.add(one)
    workload.add(two)
    assert workload.claims() == [(one.id, 1), (two.id, 4)]
    assert one.id in workload
    workload.remove(running)
    assert workload.claims() == [(two.id, 4)]
    assert one.id not in workload
    assert len(workload) == 1


def test_a_row_that_was_adopted_meanwhile_stays_when_its_former_run_is_removed() -> None:
    workload = Workload()
    former = workload.add(model_request())
    adopted = workload.add(model_request(former.model_request.id, epoch=2))
    workload.remove(former)
    assert workload.get(former.model_request.id) is adopted
    assert workload.claims() == [(former.model_request.id, 2)]


async def test_stop_cancels_the_generation_and_says_why() -> None:
    workload = Workload()
    running = workload.add(model_request())
    running.generation = asyncio.create_task(_forever())
    assert workload.stop(running.model_request.id, StopReason.CANCELLED)
    await asyncio.wait({running.generation})
    assert running.generation.cancelled()
    assert running.stop_reason is StopReason.CANCELLED


def test_what_has_not_begun_to_generate_is_marked_to_be_stopped() -> None:
    workload = Workload()
    running = workload.add(model_request())
    assert workload.stop(running.model_request.id, StopReason.LOST)
    assert running.stop_reason is StopReason.LOST


def test_the_first_reason_to_stop_counts() -> None:
    workload = Workload()
    running = workload.add(model_request())
    workload.stop(running.model_request.id, StopReason.CANCELLED)
    assert not workload.stop(running.model_request.id, StopReason.SHUTDOWN)
    assert running.stop_reason is StopReason.CANCELLED


def test_what_is_not_held_cannot_be_stopped() -> None:
    assert not Workload().stop(mint_id(), StopReason.CANCELLED)


async def test_what_has_generated_and_waits_for_the_journal_cannot_be_stopped() -> None:
    workload = Workload()
    running = workload.add(model_request())
    running.generation = asyncio.create_task(asyncio.sleep(0))
    await running.generation
    assert not workload.stop(running.model_request.id, StopReason.SHUTDOWN)


async def test_stop_all_says_how_many_it_stopped() -> None:
    workload = Workload()
    held = [workload.add(model_request()) for _ in range(3)]
    workload.stop(held[0].model_request.id, StopReason.CANCELLED)
    assert workload.stop_all(StopReason.SHUTDOWN) == 2
    assert [running.stop_reason for running in held] == [
        StopReason.CANCELLED,
        StopReason.SHUTDOWN,
        StopReason.SHUTDOWN,
    ]


def test_what_comes_after_everything_was_stopped_is_stopped_from_the_start() -> None:
    workload = Workload()
    workload.stop_all(StopReason.SHUTDOWN)
    assert workload.add(model_request()).stop_reason is StopReason.SHUTDOWN


def test_large_requests_take_room_while_they_are_held() -> None:
    workload = Workload(large_room=1_000_000)
    large = replace(model_request(), input_data=b"x" * 100_000, parameters=b"{}")
    running = workload.add(large)
    workload.add(model_request())
    assert workload.large_room == 1_000_000 - 100_002
    adopted = workload.add(replace(large, epoch=2))
    workload.remove(running)
    assert workload.large_room == 1_000_000 - 100_002
    workload.remove(adopted)
    assert workload.large_room == 1_000_000
