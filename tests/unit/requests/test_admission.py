"""Admission: what starts at once, what waits, what is a repetition, and that a refusal leaves nothing behind."""

import asyncio
from collections.abc import Callable

import asyncpg
import orjson
import pytest

from server.actors.writes import NewRequest, Replayed
from server.errors import KeyReused, Unauthenticated, Unavailable
from server.model_request import Status, mint_id
from server.requests.admission import fingerprint_of
from tests.unit.requests.services import ALICE, Desk, draft

FINGERPRINT = fingerprint_of({"prompt": "Hello"})


async def test_with_a_free_slot_and_no_backlog_a_request_starts_at_once() -> None:
    desk = Desk()
    made = draft(parameters=b'{"temperature":0.5}', key="k", fingerprint=FINGERPRINT)
    admitted = await desk.admission.admit(made)
    assert desk.journal.accepted == [
        NewRequest(
            id=made.id,
            user_id=ALICE,
            model_type="text2text",
            model=None,
            input_data=b'{"prompt":"Hello"}',
            parameters=b'{"temperature":0.5}',
            owner=desk.lease.instance_id,
            deadline_s=600.0,
            key="k",
            fingerprint=FINGERPRINT,
        )
    ]
    model_request = desk.queue.get_nowait()
    assert (model_request.id, model_request.epoch, model_request.attempt) == (made.id, 1, 1)
    assert 590 < model_request.seconds_left() <= 600
    assert made.id in desk.workload
    assert desk.slots.used == 1
    assert not admitted.is_replayed
    assert admitted.view is not None
    assert (admitted.view.status, admitted.view.epoch) == (Status.PROCESSING, 1)
    assert orjson.loads(admitted.view.body or b"")["input_data"] == {"prompt": "Hello"}


def _no_slot(desk: Desk) -> None:
    desk.slots.reserve()


def _others_wait(desk: Desk) -> None:
    desk.backlog.hint()


def _no_lease(desk: Desk) -> None:
    desk.lease.replace()


async def test_a_large_request_waits_without_memory_and_small_ones_start() -> None:
    desk = Desk()
    desk.fill_backlog(everyone=0, own=0)
    desk.slots.capacity = 2
    desk.workload.large_room = 250_000
    large = draft(input_data=b'{"prompt":"%b"}' % (b"x" * 100_000))
    first = await desk.admission.admit(large)
    assert first.view is not None
    assert (first.view.status, first.view.body) == (Status.PROCESSING, None)
    assert desk.workload.large_room == 250_000 - len(large.input_data) - len(large.parameters)
    desk.workload.large_room = 100_000
    second = await desk.admission.admit(draft(input_data=large.input_data))
    assert second.view is not None
    assert (second.view.status, second.view.body) == (Status.PENDING, None)
    desk.backlog.found_empty(desk.backlog.mark())
    third = await desk.admission.admit(draft())
    assert third.view is not None
    assert third.view.status is Status.PROCESSING
    assert desk.workload.large_room == 100_000


@pytest.mark.parametrize("obstacle", [_no_slot, _others_wait, _no_lease])
async def test_with_an_obstacle_a_request_waits_and_says_how_many_are_before_it(
    obstacle: Callable[[Desk], None],
) -> None:
    desk = Desk()
    obstacle(desk)
    desk.fill_backlog(everyone=7, own=3)
    made = draft()
    with desk.feeds.open(ALICE) as feed:
        admitted = await desk.admission.admit(made)
        assert [(change.id, change.status) for change in await feed.wait(0.01)] == [(made.id, Status.PENDING)]
    [row] = desk.journal.accepted
    assert (row.id, row.owner, row.delay_s) == (made.id, None, 0.0)
    assert admitted.view is not None
    assert (admitted.view.status, admitted.view.epoch) == (Status.PENDING, 0)
    assert orjson.loads(admitted.view.body or b"")["queue_position"] == 7
    assert not desk.backlog.is_empty
    assert desk.hints == 1
    assert desk.queue.empty()
    assert len(desk.workload) == 0


async def test_a_start_that_is_put_off_takes_no_slot_and_wakes_no_instance() -> None:
    desk = Desk()
    desk.statements.answers["count_put_off"] = [{"everyone": 0, "own": 0, "users": 0, "ahead": 4}]
    admitted = await desk.admission.admit(draft(), delay_s=12.5)
    [row] = desk.journal.accepted
    assert (row.owner, row.delay_s) == (None, 12.5)
    assert admitted.view is not None
    assert orjson.loads(admitted.view.body or b"")["queue_position"] == 4
    assert desk.hints == 0
    assert desk.backlog.is_empty
    assert desk.slots.used == 0


@pytest.mark.parametrize("is_draining", [False, True], ids=["starting", "stopping"])
async def test_a_server_that_does_not_take_work_says_why(*, is_draining: bool) -> None:
    desk = Desk(is_ready=is_draining)
    if is_draining:
        desk.lifecycle.drain()
    with pytest.raises(Unavailable, match=desk.lifecycle.reason) as caught:
        await desk.admission.admit(draft())
    assert caught.value.retry_after_s == 5
    assert desk.journal.accepted == []
    desk.assert_nothing_started()


@pytest.mark.parametrize("starts_now", [True, False])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Unavailable("The database is not available; try again.", retry_after_s=2), Unavailable),
        (asyncpg.ForeignKeyViolationError("the account is gone"), Unauthenticated),
        (asyncpg.DataError("the row is refused"), asyncpg.DataError),
    ],
    ids=["database away", "account gone", "row refused"],
)
async def test_a_write_that_fails_leaves_nothing_behind(
    error: Exception, expected: type[Exception], *, starts_now: bool
) -> None:
    desk = Desk()
    desk.backlog.is_empty = starts_now
    desk.journal.errors.append(error)
    with pytest.raises(expected):
        await desk.admission.admit(draft())
    assert desk.hints == 0
    desk.assert_nothing_started()


async def test_a_create_that_is_cancelled_gives_its_slot_back() -> None:
    desk = Desk()
    task = asyncio.create_task(desk.admission.admit(draft()))
    await asyncio.sleep(0)
    assert desk.slots.used == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    desk.assert_nothing_started()


@pytest.mark.parametrize("starts_now", [True, False])
async def test_a_repetition_that_the_journal_finds_is_answered_with_the_earlier_request(*, starts_now: bool) -> None:
    desk = Desk()
    desk.backlog.is_empty = starts_now
    desk.journal.replayed = Replayed(mint_id(), is_same_body=True)
    admitted = await desk.admission.admit(draft(key="k", fingerprint=FINGERPRINT))
    assert admitted.is_replayed
    assert (admitted.request_id, admitted.view) == (desk.journal.replayed.request_id, None)
    assert desk.hints == 0
    desk.assert_nothing_started()


@pytest.mark.parametrize("starts_now", [True, False])
async def test_a_key_with_another_body_is_refused(*, starts_now: bool) -> None:
    desk = Desk()
    desk.backlog.is_empty = starts_now
    desk.journal.replayed = Replayed(mint_id(), is_same_body=False)
    with pytest.raises(KeyReused):
        await desk.admission.admit(draft(key="k", fingerprint=FINGERPRINT))
    desk.assert_nothing_started()


async def test_an_earlier_request_is_found_by_its_key() -> None:
    desk, earlier = Desk(), mint_id()
    assert await desk.admission.find_earlier(ALICE, "k", FINGERPRINT) is None
    desk.statements.answers["find_idempotency_key"] = [{"request_id": earlier, "fingerprint": FINGERPRINT}]
    found = await desk.admission.find_earlier(ALICE, "k", FINGERPRINT)
    assert found is not None
    assert (found.request_id, found.is_replayed) == (earlier, True)
    with pytest.raises(KeyReused):
        await desk.admission.find_earlier(ALICE, "k", fingerprint_of({"prompt": "Bye"}))
    assert desk.statements.args_of("find_idempotency_key") == [(ALICE, "k")] * 3


def test_a_fingerprint_is_that_of_the_json_and_not_of_its_spelling() -> None:
    one = orjson.loads('{"a": 1, "b": {"c": [1, 2], "d": "\\u00e9"}}')
    other = orjson.loads('{"b":{"d":"é","c":[1,2]},"a":1}')
    assert fingerprint_of(one) == fingerprint_of(other)
    assert fingerprint_of(one) != fingerprint_of({**one, "a": 2})
    assert fingerprint_of({"c": [1, 2]}) != fingerprint_of({"c": [2, 1]})
