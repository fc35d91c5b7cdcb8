"""The room for what comes and goes: each takes what it needs, nobody takes it all, and all of it comes back."""

import asyncio
from uuid import UUID

import pytest

from server.errors import RateLimited, Unavailable
from server.limits.memory import MemoryBudget
from server.model_request import UserId

ALICE, BOB, CAROL = (UserId(UUID(int=number)) for number in range(3))
TOO_MANY = "Too many uploads at once"


def test_a_user_gets_a_part_of_it_and_the_others_the_rest() -> None:
    room = MemoryBudget("uploads", 100, share=60)
    with room.reserve(ALICE, 60):
        with pytest.raises(RateLimited, match=TOO_MANY), room.reserve(ALICE, 1):
            pass
        with room.reserve(BOB, 40):
            with pytest.raises(Unavailable, match="too many uploads at once") as refused, room.reserve(CAROL, 1):
                pass
            assert refused.value.headers["Retry-After"]
            with room.reserve(CAROL, 0):
                assert room.free == 0
    assert room.free == 100


def test_strangers_share_what_one_user_gets() -> None:
    room = MemoryBudget("uploads", 100)
    with room.reserve(None, 30), room.reserve(None, 20):
        with pytest.raises(RateLimited, match=TOO_MANY), room.reserve(None, 1):
            pass
        with room.reserve(ALICE, 50):
            assert room.free == 0


def test_what_was_taken_comes_back_also_after_an_error() -> None:
    room = MemoryBudget("uploads", 100, share=100)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"), room.reserve(ALICE, 100):
            raise ValueError("broken")


async def test_room_can_be_waited_for() -> None:
    room = MemoryBudget("uploads", 100)
    with room.reserve(ALICE, 50), room.reserve(BOB, 40):
        waiting = asyncio.create_task(room.wait_for_room(CAROL, 30, within_s=10))
        with room.reserve(BOB, 5):
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting
    assert room.free == 100


async def test_a_wait_for_room_ends_with_the_refusal() -> None:
    room = MemoryBudget("uploads", 100)
    with room.reserve(ALICE, 50), room.reserve(BOB, 50):
        with pytest.raises(RateLimited):
            await room.wait_for_room(ALICE, 1, within_s=0.01)
        with pytest.raises(Unavailable):
            await room.wait_for_room(CAROL, 1, within_s=0.01)
