"""The sweeper on a real database: what it claims, rescues, reclaims and ends."""

import asyncio
import time
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest

from server.actors import sweeper as sweeper_module
from server.actors.heartbeat import LEASE_TTL_S
from server.actors.quarantine import MAX_ATTEMPTS, QUARANTINE_ATTEMPTS
from server.actors.workload import StopReason
from server.model_request import mint_id
from server.storage.database import DatabaseAway
from tests.integration.sweepers import CAPACITY, SUSPECT, Instance, open_instance
from tests.rows import Row, add_instance


@pytest.fixture
async def instance(database: str) -> AsyncIterator[Instance]:
    async with open_instance(database) as instance:
        yield instance


async def test_a_claim_fills_the_free_slots_and_no_more(instance: Instance) -> None:
    assert instance.slots.reserve() == 1
    ids = [await instance.add() for _ in range(6)]
    await instance.sweeper.claim()
    assert [model_request.id for model_request in instance.take()] == ids[:3]
    assert instance.slots.free == 0
    assert instance.workload.claims() == [(request_id, 1) for request_id in ids[:3]]
    assert not instance.backlog.is_empty
    await instance.sweeper.claim()
    assert instance.queue.empty()


async def test_a_claim_gives_back_the_slots_that_it_did_not_need(instance: Instance) -> None:
    await instance.add()
    await instance.sweeper.claim()
    assert instance.slots.used == 1
    assert instance.backlog.is_empty


async def test_what_is_claimed_is_all_that_a_generator_needs(instance: Instance) -> None:
    request_id = await instance.add()
    await instance.sweeper.claim()
    [model_request] = instance.take()
    row = await instance.read(request_id)
    assert model_request.input_data == b'{"prompt": "hello"}'
    assert (model_request.owner, model_request.epoch, model_request.attempt) == (instance.lease.instance_id, 1, 1)
    assert (row["owner"], row["epoch"], row["status"]) == (instance.lease.instance_id, 1, "processing")
    assert 590 < model_request.seconds_left() < 600


async def test_slots_that_come_free_one_by_one_go_round_between_users(instance: Instance) -> None:
    for user in range(3):
        for _ in range(2):
            await instance.add(user=user)
    instance.slots.used = CAPACITY - 1
    served = []
    for _ in range(6):
        await instance.sweeper.claim()
        [model_request] = instance.take()
        served.append(model_request.user_id)
        instance.finish(model_request)
    assert served == instance.users * 2


async def test_a_user_whose_rows_are_put_off_does_not_keep_the_last_slot_from_the_others(instance: Instance) -> None:
    await instance.add(Row(run_in_s=30), user=0)
    waiting = await instance.add(user=1)
    instance.slots.used = CAPACITY - 1
    await instance.sweeper.claim()
    assert [model_request.id for model_request in instance.take()] == [waiting]


async def test_an_instance_that_is_not_sure_of_its_lease_claims_nothing(instance: Instance) -> None:
    await instance.add()
    instance.lease.replace()
    await instance.sweeper.claim()
    assert instance.queue.empty()
    assert instance.wire.sent == []


async def test_a_stopped_sweeper_claims_and_reclaims_nothing(instance: Instance) -> None:
    await instance.add()
    await instance.add(Row("processing", owner=instance.lease.instance_id, started_ago_s=60))
    instance.sweeper.is_stopped = True
    await instance.sweeper.claim()
    await instance.sweeper.reclaim()
    assert instance.queue.empty()


async def test_a_backlog_found_empty_is_empty(instance: Instance) -> None:
    await instance.add(Row(run_in_s=30))
    await instance.sweeper.claim()
    assert instance.backlog.is_empty


@pytest.mark.parametrize("during", ["survey_backlog", "claim_pending"])
async def test_a_row_that_lines_up_during_a_claim_is_not_overlooked(instance: Instance, during: str) -> None:
    if during == "claim_pending":
        await instance.add()
    instance.wire.on_statement = lambda query: instance.backlog.hint() if query == during else None
    await instance.sweeper.claim()
    assert not instance.backlog.is_empty


async def test_a_claim_that_was_not_answered_gives_its_slots_back(instance: Instance) -> None:
    request_id = await instance.add()
    await instance.sweeper.claim()
    instance.finish(instance.take()[0])
    lost = await instance.add()

    def lose_the_claim(query: str) -> None:
        if query == "claim_pending":
            raise ConnectionResetError

    instance.wire.on_statement = lose_the_claim
    with pytest.raises(DatabaseAway):
        await instance.sweeper.claim()
    assert instance.slots.used == 0
    assert instance.queue.empty()
    assert await instance.status(request_id) == await instance.status(lost) == "processing"


async def test_a_suspect_waits_until_nothing_else_runs(instance: Instance) -> None:
    innocent = await instance.add()
    await instance.sweeper.claim()
    [running] = instance.take()
    assert running.id == innocent
    suspect = await instance.add(SUSPECT)
    await instance.add()
    await instance.sweeper.claim()
    assert instance.queue.empty()
    assert instance.slots.reserve() == 0  # newcomers do not start either
    instance.finish(running)
    await instance.sweeper.claim()
    assert [model_request.id for model_request in instance.take()] == [suspect]


async def test_nothing_starts_beside_a_suspect_until_it_has_ended(instance: Instance) -> None:
    suspect, innocent = await instance.add(SUSPECT), await instance.add()
    await instance.sweeper.claim()
    [running] = instance.take()
    assert running.id == suspect
    assert instance.slots.reserve() == 0
    await instance.sweeper.claim()
    assert instance.slots.reserve() == 0
    assert instance.queue.empty()
    instance.finish(running)
    await instance.sweeper.claim()
    assert [model_request.id for model_request in instance.take()] == [innocent]


async def test_suspects_of_two_crashes_run_together(instance: Instance) -> None:
    ids = [await instance.add(SUSPECT) for _ in range(CAPACITY + 1)]
    await instance.sweeper.claim()
    assert [model_request.id for model_request in instance.take()] == ids[:CAPACITY]


@pytest.mark.parametrize(("attempt", "together"), [(QUARANTINE_ATTEMPTS + 1, 1), (MAX_ATTEMPTS - 1, 1)])
async def test_with_each_crash_more_they_run_in_smaller_groups(instance: Instance, attempt: int, together: int) -> None:
    ids = [await instance.add(Row(attempt=attempt)) for _ in range(3)]
    await instance.sweeper.claim()
    group = instance.take()
    assert [model_request.id for model_request in group] == ids[:together]
    for model_request in group:
        instance.finish(model_request)
    await instance.sweeper.claim()
    await instance.sweeper.claim()
    assert [model_request.id for model_request in instance.take()] == ids[together : 2 * together]


async def test_between_two_groups_the_others_have_their_turn(instance: Instance) -> None:
    suspects = [await instance.add(Row(attempt=MAX_ATTEMPTS - 1)) for _ in range(2)]
    await instance.sweeper.claim()
    [first] = instance.take()
    innocent = await instance.add()
    instance.finish(first)
    await instance.sweeper.claim()
    [second] = instance.take()
    assert (first.id, second.id) == (suspects[0], innocent)


async def test_a_group_of_which_nothing_is_left_opens_the_slots_again(instance: Instance) -> None:
    innocent = await instance.add()
    await instance.sweeper.claim()
    [running] = instance.take()
    suspect = await instance.add(SUSPECT)
    await instance.sweeper.claim()
    await instance.connection.execute("DELETE FROM model_requests WHERE id = $1", suspect)
    instance.finish(running)
    await instance.sweeper.claim()
    assert (running.id, len(instance.workload), instance.slots.is_closed) == (innocent, 0, False)


async def test_a_suspect_that_waits_has_spent_no_attempt(instance: Instance) -> None:
    await instance.add()
    await instance.sweeper.claim()
    [running] = instance.take()
    suspect = await instance.add(SUSPECT)
    await instance.sweeper.claim()
    assert (await instance.read(suspect))["attempt"] == SUSPECT.attempt
    instance.finish(running)
    await instance.sweeper.claim()
    [started] = instance.take()
    assert started.attempt == (await instance.read(suspect))["attempt"] == SUSPECT.attempt + 1


@pytest.fixture
def _old_postmaster(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster of the tests may be younger than a lease; its age is a matter of the statement's tests."""
    monkeypatch.setattr(sweeper_module, "LEASE_TTL_S", 0.0)


@pytest.mark.usefixtures("_old_postmaster")
async def test_a_rescue_waits_until_this_instance_has_held_a_lease_for_long_enough(instance: Instance) -> None:
    dead = await add_instance(instance.connection, lease_s=-1)
    request_id = await instance.add(Row("processing", owner=dead, epoch=1, attempt=1))
    await instance.sweeper.rescue()
    assert await instance.status(request_id) == "processing"
    instance.lease.held_since = time.monotonic() - LEASE_TTL_S
    instance.backlog.found_empty(instance.backlog.mark())
    await instance.sweeper.rescue()
    assert await instance.status(request_id) == "pending"
    assert not instance.backlog.is_empty


async def test_rows_of_a_known_dead_instance_are_rescued_at_once_and_only_those(instance: Instance) -> None:
    dead, other = await add_instance(instance.connection), await add_instance(instance.connection, lease_s=-1)
    rescued = await instance.add(Row("processing", owner=dead, epoch=1, attempt=1))
    worn_out = await instance.add(Row("processing", owner=dead, epoch=5, attempt=MAX_ATTEMPTS))
    left = await instance.add(Row("processing", owner=other, epoch=1, attempt=1))
    instance.sweeper.add_dead_instance(dead)
    await instance.sweeper.rescue()
    assert [await instance.status(row) for row in (rescued, worn_out, left)] == ["pending", "failed", "processing"]
    assert "stopped unexpectedly" in (await instance.read(worn_out))["error_msg"]


async def test_rows_that_memory_forgot_are_reclaimed(instance: Instance) -> None:
    me = instance.lease.instance_id
    held = await instance.add()
    await instance.sweeper.claim()
    instance.take()
    await instance.connection.execute("UPDATE model_requests SET started_at = now() - interval '1 minute'")
    forgotten = await instance.add(Row("processing", owner=me, epoch=1, attempt=1, started_ago_s=60))
    young = await instance.add(Row("processing", owner=me, epoch=1, attempt=1, started_ago_s=5))
    foreign = await instance.add(Row("processing", owner=uuid4(), epoch=1, attempt=1, started_ago_s=60))
    await instance.sweeper.reclaim()
    [reclaimed] = instance.take()
    assert (reclaimed.id, reclaimed.epoch, reclaimed.attempt) == (forgotten, 2, 1)
    assert forgotten in instance.workload
    assert instance.slots.used == 2
    assert [(await instance.read(row))["epoch"] for row in (held, young, foreign)] == [1, 1, 1]


async def test_reclaiming_takes_no_more_than_there_are_free_slots(instance: Instance) -> None:
    for _ in range(CAPACITY + 2):
        await instance.add(Row("processing", owner=instance.lease.instance_id, epoch=1, started_ago_s=60))
    instance.slots.used = 1
    await instance.sweeper.reclaim()
    assert len(instance.take()) == CAPACITY - 1
    assert instance.slots.used == CAPACITY


async def test_what_is_overdue_ends_with_its_last_error(instance: Instance) -> None:
    tried = await instance.add(Row(error_code="MODEL_ERROR", error_msg="The model is busy.", deadline_in_s=-1))
    untried = await instance.add(Row(deadline_in_s=-1))
    cancelled = await instance.add(Row(cancel_requested=True))
    await instance.sweeper.expire()
    one, two = await instance.read(tried), await instance.read(untried)
    assert (one["error_code"], one["error_msg"]) == ("MODEL_ERROR", "Not finished by its deadline. The model is busy.")
    assert (two["error_code"], "waiting for its turn" in two["error_msg"]) == ("SERVER_ERROR", True)
    assert await instance.status(cancelled) == "cancelled"


async def test_old_final_rows_go_only_where_the_operator_says_so(instance: Instance) -> None:
    old = UUID(int=int((time.time() - 3 * 86400) * 1000) << 80)
    await instance.connection.execute(
        "INSERT INTO model_requests (id, status, completed_at)"
        " VALUES ($1, 'completed', now()), ($2, 'completed', now())",
        old,
        mint_id(),
    )
    await instance.sweeper.purge()
    assert await instance.connection.fetchval("SELECT count(*) FROM model_requests") == 2
    instance.sweeper._retention_days = 2
    await instance.sweeper.purge()
    assert await instance.connection.fetchval("SELECT count(*) FROM model_requests WHERE id = $1", old) == 0
    assert await instance.connection.fetchval("SELECT count(*) FROM model_requests") == 1


async def test_a_free_slot_or_a_hint_wakes_the_sweeper(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper_module, "CLAIM_INTERVAL_S", 3600.0)
    instance.slots.used = CAPACITY
    run = asyncio.create_task(instance.sweeper.run())
    try:
        async with asyncio.timeout(10):
            await instance.wire.wait_sent(1)
            first, second = await instance.add(), await instance.add()
            instance.backlog.hint()
            instance.slots.release()
            assert (await instance.queue.get()).id == first
            instance.slots.release()
            assert (await instance.queue.get()).id == second
    finally:
        run.cancel()
        await asyncio.wait({run})


async def test_a_row_with_a_code_of_a_later_version_is_run_all_the_same(instance: Instance) -> None:
    request_id = await instance.add(Row(error_code="LATER_ERROR", error_msg="unheard of"))
    await instance.sweeper.claim()
    [taken] = instance.take()
    assert taken.id == request_id
    assert taken.last_error is not None
    assert taken.last_error.error_code == "SERVER_ERROR"
    assert instance.slots.used == 1


async def test_a_suspect_that_waits_is_given_back_at_a_stop(instance: Instance) -> None:
    await instance.add()
    await instance.sweeper.claim()
    instance.take()
    suspect = await instance.add(SUSPECT)
    await instance.sweeper.claim()
    instance.workload.stop_all(StopReason.SHUTDOWN)
    instance.sweeper.release_waiting()
    [handed] = instance.take()
    running = instance.workload.get(suspect)
    assert handed.id == suspect
    assert running is not None
    assert running.stop_reason is StopReason.SHUTDOWN
