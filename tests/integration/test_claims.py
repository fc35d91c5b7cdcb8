"""Who gets a slot: fairness between users, and two instances at once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from server.model_request import RequestId, UserId
from server.storage.queries import statements
from tests.rows import Row, add_row, add_users, connected

FIRST = UUID(int=0)
SUSPECT_ATTEMPTS = 2


@pytest.fixture
async def connection(any_database: str) -> AsyncIterator["asyncpg.Connection[Any]"]:
    async with connected(any_database) as connection:
        yield connection


async def _claim(
    connection: "asyncpg.Connection[Any]",
    count: int,
    *,
    after: UUID = FIRST,
    room: int = 0,
    left_out: Sequence[UserId] = (),
) -> dict[RequestId, UserId]:
    rows = await connection.fetch(
        statements()["claim_pending"], uuid4(), count, after, SUSPECT_ATTEMPTS, room, left_out
    )
    return {row["id"]: row["user_id"] for row in rows}


async def _add(
    connection: "asyncpg.Connection[Any]", user_id: UserId, count: int, row: Row | None = None
) -> list[RequestId]:
    return [await add_row(connection, user_id, row) for _ in range(count)]


async def test_users_share_a_claim_however_much_each_of_them_waits(connection: "asyncpg.Connection[Any]") -> None:
    busy, modest, single = await add_users(connection, 3)
    await _add(connection, busy, 30)
    await _add(connection, modest, 5)
    await _add(connection, single, 1)
    assert Counter((await _claim(connection, 9)).values()) == {busy: 3, modest: 3, single: 1}


async def test_each_user_gives_the_oldest_first(connection: "asyncpg.Connection[Any]") -> None:
    one, two = await add_users(connection, 2)
    of_one = await _add(connection, one, 5)
    of_two = await _add(connection, two, 5)
    assert set(await _claim(connection, 4)) == {*of_one[:2], *of_two[:2]}


async def test_a_claim_goes_on_after_the_user_who_was_last(connection: "asyncpg.Connection[Any]") -> None:
    users = await add_users(connection, 4)
    for user_id in users:
        await _add(connection, user_id, 2)
    assert set((await _claim(connection, 2)).values()) == {users[0], users[1]}
    assert set((await _claim(connection, 2, after=users[1])).values()) == {users[2], users[3]}
    assert await _claim(connection, 2, after=users[3]) == {}  # the sweeper begins anew
    assert set((await _claim(connection, 2)).values()) == {users[0], users[1]}


async def test_i4_users_who_are_left_out_leave_one_place_to_each_of_the_others(
    connection: "asyncpg.Connection[Any]",
) -> None:
    users = await add_users(connection, 5)
    for user_id in users:
        await _add(connection, user_id, 3)
    claimed = await _claim(connection, 2, left_out=users[:3])
    assert Counter(claimed.values()) == dict.fromkeys(users[3:], 1)


async def test_more_users_than_slots_get_one_each(connection: "asyncpg.Connection[Any]") -> None:
    users = await add_users(connection, 7)
    for user_id in users:
        await _add(connection, user_id, 3)
    assert Counter((await _claim(connection, 5)).values()) == dict.fromkeys(users[:5], 1)


async def test_a_claim_takes_only_the_large_rows_that_there_is_memory_for(
    connection: "asyncpg.Connection[Any]",
) -> None:
    one, two = await add_users(connection, 2)
    of_one, of_two = await _add(connection, one, 3), await _add(connection, two, 2)
    large = [of_one[0], of_one[2], of_two[0]]
    await connection.execute("UPDATE public.model_requests SET large_bytes = 100 WHERE id = ANY($1)", large)
    assert set(await _claim(connection, 10, room=99)) == {of_one[1], of_two[1]}
    assert set(await _claim(connection, 10, room=299)) == {of_one[0], of_one[2]}
    assert set(await _claim(connection, 10, room=100)) == {of_two[0]}


async def test_a_claim_never_takes_more_than_asked_for(connection: "asyncpg.Connection[Any]") -> None:
    users = await add_users(connection, 3)
    for user_id in users:
        await _add(connection, user_id, 10)
    for count in (1, 2, 3, 4, 5):
        assert 1 <= len(await _claim(connection, count)) <= count


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(Row(run_in_s=60), id="not yet due"),
        pytest.param(Row(attempt=SUSPECT_ATTEMPTS), id="suspect"),
        pytest.param(Row(cancel_requested=True), id="cancelled"),
    ],
)
async def test_users_whose_rows_cannot_start_take_no_place_in_a_claim(
    connection: "asyncpg.Connection[Any]", state: Row
) -> None:
    *stuck, ready = await add_users(connection, 3)
    for user_id in stuck:
        await _add(connection, user_id, 1, state)
    [waiting] = await _add(connection, ready, 1)
    assert await _claim(connection, 1) == {waiting: ready}


async def test_two_instances_never_claim_the_same_row_and_never_wait_for_each_other(
    any_database: str, connection: "asyncpg.Connection[Any]"
) -> None:
    users = await add_users(connection, 2)
    waiting = [request_id for user_id in users for request_id in await _add(connection, user_id, 3)]
    async with connected(any_database) as other, connection.transaction():
        ours = await _claim(connection, 4)
        async with asyncio.timeout(5):  # a claim that waited would wait for the open transaction
            theirs = await _claim(other, 4)
    assert len(ours) == 4
    assert ours.keys().isdisjoint(theirs)
    assert {*ours, *theirs} == set(waiting)


@pytest.mark.parametrize(
    ("query", "state", "args"),
    [
        ("rescue_orphans", Row("processing", owner=FIRST), ([FIRST], False, 0.0, 5, 2)),
        ("expire_requests", Row(deadline_in_s=-1), (30.0, None)),
        ("finalise_cancelled", Row(cancel_requested=True), ()),
        ("reclaim_own", Row("processing", owner=FIRST, started_ago_s=20), (FIRST, [], 10.0, 2)),
    ],
)
async def test_sweeps_take_the_oldest_first_and_no_more_than_a_batch(
    connection: "asyncpg.Connection[Any]", query: str, state: Row, args: tuple[Any, ...]
) -> None:
    [user_id] = await add_users(connection, 1)
    ids = await _add(connection, user_id, 5, state)
    for batch in (ids[:3], ids[3:]):
        swept = await connection.fetch(statements()[query], *args, 3)
        assert {row["id"] for row in swept} == set(batch)


@pytest.mark.parametrize(
    ("query", "state", "args"),
    [
        ("claim_quarantined", Row(attempt=2), (uuid4(), 1)),
        ("rescue_orphans", Row("processing", owner=FIRST), ([FIRST], False, 0.0, 5, 2, 1)),
        ("expire_requests", Row(deadline_in_s=-1), (30.0, None, 1)),
        ("finalise_cancelled", Row(cancel_requested=True), (1,)),
        ("reclaim_own", Row("processing", owner=FIRST, started_ago_s=20), (FIRST, [], 10.0, 2, 1)),
    ],
)
async def test_two_sweepers_pass_by_each_others_rows(
    any_database: str, connection: "asyncpg.Connection[Any]", query: str, state: Row, args: tuple[Any, ...]
) -> None:
    # Of different users: rows of one that end at once take turns at the user's line in usage_daily.
    first, second = [await add_row(connection, user_id, state) for user_id in await add_users(connection, 2)]
    async with connected(any_database) as other, connection.transaction():
        assert [row["id"] for row in await connection.fetch(statements()[query], *args)] == [first]
        async with asyncio.timeout(4):  # below the lock timeout of a session
            assert [row["id"] for row in await other.fetch(statements()[query], *args)] == [second]


async def test_many_claims_at_once_hand_out_every_row_once(
    any_database: str, connection: "asyncpg.Connection[Any]"
) -> None:
    users = await add_users(connection, 5)
    waiting = [request_id for user_id in users for request_id in await _add(connection, user_id, 8)]

    async def drain() -> list[RequestId]:
        claimed: list[RequestId] = []
        async with connected(any_database) as own:
            while rows := await _claim(own, 3):
                claimed += rows
        return claimed

    claimed = [request_id for part in await asyncio.gather(*(drain() for _ in range(4))) for request_id in part]
    rest: list[RequestId] = []
    while rows := await _claim(connection, 3):  # what a drain passed by while it was locked
        rest += rows
    assert sorted([*claimed, *rest]) == sorted(waiting)
