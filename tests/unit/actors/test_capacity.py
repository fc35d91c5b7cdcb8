"""Slots and the backlog: counters, without a wait anywhere."""

import asyncio

import pytest

from server.actors.capacity import Backlog, Slots


def test_i4_spare_slots_are_for_newcomers() -> None:
    slots = Slots(16)
    assert (slots.reserve(20), slots.reserve(), slots.free) == (14, 0, 2)
    assert (slots.reserve(also_spare=True), slots.reserve(3, also_spare=True)) == (1, 1)
    slots.release(2)
    assert slots.reserve() == 0  # what comes back first is spare again
    slots.release()
    assert slots.reserve() == 1


def test_no_more_slots_are_reserved_than_there_are() -> None:
    slots = Slots(3)
    assert [slots.reserve(), slots.reserve(5), slots.reserve()] == [1, 2, 0]
    assert (slots.used, slots.free) == (3, 0)


def test_a_released_slot_can_be_reserved_again() -> None:
    slots = Slots(2)
    slots.reserve(2)
    slots.release()
    assert slots.free == 1
    assert slots.reserve(2) == 1


def test_closed_slots_cannot_be_reserved_and_come_back_when_opened() -> None:
    slots = Slots(2)
    slots.reserve()
    slots.is_closed = True
    assert (slots.free, slots.reserve()) == (0, 0)
    slots.release()
    assert slots.free == 0
    slots.is_closed = False
    assert slots.free == 2


def test_more_in_use_than_there_are_is_no_free_slot() -> None:
    slots = Slots(2)
    slots.used = 3
    assert (slots.free, slots.reserve(2), slots.used) == (0, 0, 3)


@pytest.mark.parametrize(("count", "calls"), [(1, 1), (2, 1), (0, 0)])
def test_whoever_watches_is_told_after_slots_came_free(count: int, calls: int) -> None:
    slots, seen = Slots(2), list[int]()
    slots.reserve(2)
    slots.watch(lambda: seen.append(slots.free))
    slots.release(count)
    assert seen == [count] * calls


def test_a_backlog_nobody_looked_at_is_not_taken_for_empty() -> None:
    assert not Backlog().is_empty


def test_a_claim_that_found_nothing_empties_the_backlog() -> None:
    backlog = Backlog()
    backlog.found_empty(backlog.mark())
    assert backlog.is_empty


def test_a_hint_fills_the_backlog_and_wakes_whoever_watches() -> None:
    backlog, seen = Backlog(), list[bool]()
    backlog.found_empty(backlog.mark())
    backlog.watch(lambda: seen.append(backlog.is_empty))
    backlog.hint()
    assert seen == [False]
    assert not backlog.is_empty


def test_a_hint_during_a_claim_outweighs_that_it_found_nothing() -> None:
    backlog = Backlog()
    mark = backlog.mark()
    backlog.hint()
    backlog.found_empty(mark)
    assert not backlog.is_empty
    backlog.found_empty(backlog.mark())
    assert backlog.is_empty


@pytest.mark.parametrize("rounds", [1, 2])
async def test_idle_means_that_no_slot_is_held_any_more(rounds: int) -> None:
    slots = Slots(2)
    await slots.wait_idle()  # nothing was ever held
    for _ in range(rounds):
        slots.reserve(2)
        idle = asyncio.create_task(slots.wait_idle())
        for _ in range(2):
            await asyncio.sleep(0)
            assert not idle.done()
            slots.release()
        await idle


def test_an_outage_upstream_leaves_as_many_slots_as_make_sense() -> None:
    limit: list[int | None] = [None]
    slots = Slots(3, limit=lambda: limit[0])
    assert slots.reserve(2) == 2
    limit[0] = 1
    assert (slots.sensible, slots.free) == (1, 0)
    slots.release(2)
    assert slots.reserve(3) == 1
    limit[0] = 0
    slots.release()
    assert (slots.sensible, slots.free) == (0, 0)
    limit[0] = 10
    assert (slots.sensible, slots.free) == (3, 3)
