"""Pages of the history: few are put together at once, whatever is asked for."""

import asyncio
from typing import Any, cast
from uuid import UUID

import pytest

from server.errors import Unavailable
from server.model_request import UserId
from server.requests import history
from server.requests.history import Filters, History
from server.storage.reader import PooledQueries

USER = UserId(UUID(int=1))


class SlowReader:
    """Answers when it is let go, and knows how many wait for it."""

    def __init__(self) -> None:
        self.waiting = self.most = 0
        self.go = asyncio.Event()

    async def fetch(self, _query: str, *_args: Any) -> list[dict[str, Any]]:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        await self.go.wait()
        self.waiting -= 1
        return []


async def test_pages_are_put_together_a_few_at_a_time() -> None:
    reader = SlowReader()
    pages = History(cast("PooledQueries", reader))
    reading = [asyncio.create_task(pages.page(USER, Filters())) for _ in range(50)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert reader.waiting == 8
    reader.go.set()
    assert [page.objects for page in await asyncio.gather(*reading)] == [[]] * 50
    assert reader.most == 8


async def test_who_does_not_get_a_turn_in_time_is_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_TURN_S", 0.05)
    reader = SlowReader()
    pages = History(cast("PooledQueries", reader))
    reading = [asyncio.create_task(pages.page(USER, Filters())) for _ in range(8)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable) as refused:
        await pages.page(USER, Filters())
    assert refused.value.headers["Retry-After"]
    reader.go.set()
    await asyncio.gather(*reading)
    assert (await pages.page(USER, Filters())).objects == []
