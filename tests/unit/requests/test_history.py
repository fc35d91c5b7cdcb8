"""Pages of the history: few are put together at once, whatever is asked for."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import pytest

from server.errors import Unavailable
from server.model_request import UserId, lowest_id_at
from server.requests import history
from server.requests.history import Filters, History
from server.storage.reader import PooledQueries

USERS = [UserId(UUID(int=number)) for number in range(1, 26)]
USER, OTHER = USERS[:2]


class SlowReader:
    """Answers when it is let go, and knows how many wait for it."""

    def __init__(self) -> None:
        self.waiting = self.most = 0
        self.asked: list[tuple[Any, ...]] = []
        self.go = asyncio.Event()

    async def fetch(self, _query: str, *args: Any) -> list[dict[str, Any]]:
        self.asked.append(args)
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        await self.go.wait()
        self.waiting -= 1
        return []


async def turns_taken() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_i6_one_user_reads_two_pages_at_once_and_another_does_not_wait() -> None:
    reader = SlowReader()
    pages = History(cast("PooledQueries", reader))
    reading = [asyncio.create_task(pages.page(USER, Filters())) for _ in range(24)]
    reading.append(asyncio.create_task(pages.page(OTHER, Filters())))
    await turns_taken()
    assert [args[0] for args in reader.asked] == [USER, USER, OTHER]
    reader.go.set()
    await asyncio.gather(*reading)
    assert reader.most == 3


@pytest.mark.parametrize("is_deep", [False, True], ids=["first page", "later page"])
async def test_i6_a_filter_by_time_bounds_the_ids(*, is_deep: bool) -> None:
    reader = SlowReader()
    reader.go.set()
    day = datetime(2026, 11, 20, tzinfo=UTC)
    cursor = lowest_id_at(day + timedelta(hours=12)) if is_deep else None
    filters = Filters(cursor=cursor, created_after=day, created_before=day + timedelta(days=1))
    await History(cast("PooledQueries", reader)).page(USER, filters)
    [(_, below, *_, above)] = reader.asked
    assert above == lowest_id_at(day - timedelta(hours=1))
    assert below == (cursor or lowest_id_at(day + timedelta(hours=25)))


@pytest.mark.parametrize("moment", [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)])
async def test_i6_a_filter_by_any_time_has_a_bound(moment: datetime) -> None:
    reader = SlowReader()
    reader.go.set()
    page = await History(cast("PooledQueries", reader)).page(USER, Filters(created_after=moment, created_before=moment))
    assert page.objects == []


async def test_pages_are_put_together_a_few_at_a_time() -> None:
    reader = SlowReader()
    pages = History(cast("PooledQueries", reader))
    reading = [asyncio.create_task(pages.page(user, Filters())) for user in USERS * 2]
    await turns_taken()
    assert reader.waiting == 8
    reader.go.set()
    assert [page.objects for page in await asyncio.gather(*reading)] == [[]] * 50
    assert reader.most == 8


async def test_who_does_not_get_a_turn_in_time_is_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_TURN_S", 0.05)
    reader = SlowReader()
    pages = History(cast("PooledQueries", reader))
    reading = [asyncio.create_task(pages.page(USER, Filters())) for _ in range(2)]
    await turns_taken()
    with pytest.raises(Unavailable) as refused:
        await pages.page(USER, Filters())
    assert refused.value.headers["Retry-After"]
    reader.go.set()
    await asyncio.gather(*reading)
    assert (await pages.page(USER, Filters())).objects == []
