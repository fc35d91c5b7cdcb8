"""A rate over all instances: the whole limit for one user anywhere and no more, for few statements."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from server.errors import Unavailable
from server.limits.rates import RateLimitResult
from server.limits.shared_rates import SharedRateLimiter
from server.model_request import UserId
from server.storage.database import Database
from server.storage.reader import PooledQueries
from tests.fakes.clock import Clock
from tests.rows import connected
from tests.signals import until

ALICE, BOB = UserId(uuid4()), UserId(uuid4())


class CountingQueries(PooledQueries):
    """Counts the statements by their names; while `is_away` there is no database."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.sent: Counter[str] = Counter()
        self.is_away = False

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        self.sent[query] += 1
        if self.is_away:
            raise Unavailable("away", retry_after_s=1)
        return await super().fetch(query, *args)


class Instance:
    """The limiter of one instance, with connections of its own."""

    def __init__(self, database: str, per_minute: int, *, instances: int, **options: Any) -> None:
        self.reader = CountingQueries(Database(database))
        self.limiter = SharedRateLimiter(
            "create", per_minute, reader=self.reader, instances=lambda: instances, **options
        )

    async def check(self, user_id: UserId = ALICE) -> RateLimitResult:
        result = await self.limiter.check(user_id)
        assert result is not None
        return result

    async def count_allowed(self, calls: int) -> int:
        return sum([(await self.check()).allowed for _ in range(calls)])


Start = Callable[..., Any]


@pytest.fixture
async def start(any_database: str) -> AsyncIterator[Start]:
    async with contextlib.AsyncExitStack() as stack:

        async def start(per_minute: int, *, instances: int = 1, **options: Any) -> Instance:
            instance = Instance(any_database, per_minute, instances=instances, **options)
            await instance.reader.open()
            stack.push_async_callback(instance.reader.close)
            running = asyncio.create_task(instance.limiter.run())
            stack.callback(running.cancel)
            return instance

        yield start


async def settled(instance: Instance, user_id: UserId = ALICE) -> None:
    """Until no loan is on its way."""
    account = instance.limiter._accounts.get(user_id)
    while account is not None and account.loan is not None:
        await asyncio.wait({account.loan}, timeout=5)


async def test_three_instances_at_full_speed_allow_one_limit_for_few_statements(start: Start) -> None:
    instances = [await start(60, instances=3) for _ in range(3)]
    allowed = await asyncio.gather(*(instance.count_allowed(1000) for instance in instances for _ in range(5)))
    sent = sum((instance.reader.sent for instance in instances), Counter[str]())
    print(f"{sum(allowed)} of 15,000 calls allowed, with {dict(sent)}")
    assert 60 <= sum(allowed) <= 66
    assert set(sent) == {"borrow_rates"}
    assert sent.total() <= 0.1 * 15_000


async def test_a_client_of_one_instance_gets_its_whole_limit_and_is_told_the_rest(start: Start) -> None:
    here, there = await start(60, instances=2), await start(60, instances=2)
    results = [await here.check() for _ in range(61)]
    assert [result.allowed for result in results] == [True] * 60 + [False]
    assert 1 <= results[-1].reset_s <= 2
    assert results[0].remaining == 59
    assert abs(results[30].remaining - 29) <= 1
    assert here.reader.sent.total() <= 15
    assert await there.count_allowed(5) <= 1  # the advance of a user of whom this instance knows nothing
    await settled(there)
    assert not (await there.check()).allowed


async def test_a_burst_of_a_new_user_is_one_loan(start: Start) -> None:
    instance = await start(60)
    results = await asyncio.gather(*(instance.check() for _ in range(60)))
    assert all(result.allowed for result in results)
    assert instance.reader.sent.total() <= 3


async def test_users_borrow_together(start: Start) -> None:
    instance = await start(5)
    users = [UserId(uuid4()) for _ in range(100)]
    await asyncio.gather(*(instance.check(user_id) for user_id in users))
    assert instance.reader.sent.total() <= 3


async def test_a_small_limit_is_exact(start: Start) -> None:
    instances = [await start(2, instances=3) for _ in range(3)]
    allowed = await asyncio.gather(*(instance.count_allowed(10) for instance in instances))
    assert sum(allowed) == 2


async def test_a_credit_ends_when_the_bucket_has_regained_it(start: Start) -> None:
    clock = Clock()
    instance = await start(60, clock=clock)
    assert (await instance.check()).remaining == 59
    await settled(instance)
    account = instance.limiter._accounts[ALICE]
    assert account.credit == 6
    clock.now += 4.5
    assert instance.limiter._usable(account) == 2
    clock.now += 2.5
    sent = instance.reader.sent.total()
    assert (await instance.check()).allowed  # in advance: nothing is known after that time
    assert (account.credit, account.debt) == (0, 1)
    await settled(instance)
    assert (account.credit, account.debt) == (6, 0)
    assert instance.reader.sent.total() == sent + 1


async def test_the_limit_outlives_the_process(start: Start) -> None:
    before = await start(2)
    assert await before.count_allowed(3) == 2
    assert not (await (await start(2)).check()).allowed


async def test_starts_that_are_put_off_count_everywhere_and_are_given_back(start: Start) -> None:
    here, there = await start(6, instances=2), await start(6, instances=2)
    assert await here.count_allowed(7) == 6
    delays = [await instance.limiter.reserve(ALICE) for instance in (here, there, here)]
    assert [round(delay / 10) for delay in delays] == [1, 2, 3]
    refused = await there.check()
    assert (refused.allowed, 25 < refused.retry_after_s <= 30) == (False, True)  # as of its own start
    assert 35 < (await there.limiter.look(ALICE) or refused).retry_after_s <= 40
    await here.limiter.refund(ALICE)
    assert 25 < (await there.limiter.look(ALICE) or refused).retry_after_s <= 30


async def test_without_a_database_an_instance_allows_its_share(start: Start) -> None:
    instance = await start(60, instances=3)
    instance.reader.is_away = True
    assert await instance.count_allowed(100) == 1 + 20
    await instance.limiter.refund(ALICE)
    with pytest.raises(Unavailable):
        await instance.limiter.look(ALICE)
    instance.reader.is_away = False
    assert await instance.count_allowed(100) == 59  # the advance is a debt


async def test_a_look_counts_nothing(start: Start) -> None:
    here, there = await start(10, instances=2), await start(10, instances=2)
    assert await here.count_allowed(4) == 4
    for _ in range(3):
        found = await there.limiter.look(ALICE)
        assert found is not None
        assert (found.allowed, 6 <= found.remaining <= 7) == (True, True)
    assert there.limiter.peek(BOB) == RateLimitResult("create", allowed=True, limit=10, remaining=10, reset_s=0)


async def test_without_a_limit_nothing_is_counted(start: Start) -> None:
    instance = await start(0)
    found = [await instance.limiter.check(ALICE), instance.limiter.peek(ALICE), await instance.limiter.look(ALICE)]
    assert (found, instance.reader.sent.total()) == ([None] * 3, 0)


async def test_full_buckets_are_deleted(start: Start, any_database: str) -> None:
    clock = Clock()
    instance = await start(60, clock=clock)
    await instance.check()
    await settled(instance)
    async with connected(any_database) as connection:
        await connection.execute("UPDATE rate_buckets SET full_at = now() - interval '1 hour'")
        clock.now += 700
        await instance.check(BOB)
        await until(lambda: connection.fetchval("SELECT count(*) = 1 FROM rate_buckets"))
