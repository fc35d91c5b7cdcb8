"""A feed tells each change once, and the end of whatever it told of, in whichever order it hears."""

from typing import Any, cast
from uuid import uuid4

import pytest

from server.actors.feeds import Change, Feed, Feeds
from server.actors.subscription import View
from server.model_request import RequestId, Status, UserId, mint_id
from server.storage.database import DedicatedConnection

USER = UserId(uuid4())
PENDING, RUNNING, COMPLETED, CANCELLED = Status.PENDING, Status.PROCESSING, Status.COMPLETED, Status.CANCELLED


class FakeLine:
    """The rows that the database has."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    async def fetch(self, _query: str, *_args: Any) -> list[dict[str, Any]]:
        return self.rows


@pytest.fixture
def line() -> FakeLine:
    return FakeLine()


@pytest.fixture
def feeds(line: FakeLine) -> Feeds:
    return Feeds(cast("DedicatedConnection", line))


async def told(feed: Feed) -> list[Status]:
    return [change.status for change in await feed.wait(0)]


async def test_an_end_that_the_snapshot_saw_before_it_was_told_is_not_lost(feeds: Feeds) -> None:
    """Its start was told in between, so its reader knows of it."""
    request_id = mint_id()
    with feeds.open(USER) as feed:
        feeds.notify(USER, request_id, View(RUNNING, 1))
        feed.begin([Change(request_id, COMPLETED, 1)])
        feeds.notify(USER, request_id, View(COMPLETED, 1))
        assert await told(feed) == [COMPLETED]
        assert feed.live == []


async def test_an_end_that_was_told_before_the_snapshot_is_told_after_it(feeds: Feeds) -> None:
    request_id = mint_id()
    with feeds.open(USER) as feed:
        feeds.notify(USER, request_id, View(COMPLETED, 1))
        feed.begin([Change(request_id, RUNNING, 1)])
        assert await told(feed) == [COMPLETED]
        assert feed.live == []


async def test_a_request_that_is_gone_ended(feeds: Feeds, line: FakeLine) -> None:
    gone, stays = mint_id(), mint_id()
    with feeds.open(USER) as feed:
        feed.begin([Change(gone, RUNNING, 1), Change(stays, PENDING, 0)])
        line.rows = [{"id": stays, "user_id": USER, "status": "pending", "epoch": 0}]
        await feeds.refresh()
        assert [(change.id, change.status) for change in await feed.wait(0)] == [(gone, CANCELLED)]
        await feeds.refresh()
        assert await told(feed) == []
        assert feed.live == [stays]


async def test_what_is_told_late_of_an_earlier_run_is_no_change(feeds: Feeds) -> None:
    request_id = RequestId(mint_id())
    with feeds.open(USER) as feed:
        for status, epoch in ((RUNNING, 1), (PENDING, 1), (RUNNING, 2), (RUNNING, 1), (COMPLETED, 2), (RUNNING, 2)):
            feeds.notify(USER, request_id, View(status, epoch))
        assert await told(feed) == [COMPLETED]
