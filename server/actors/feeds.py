"""Feeds of the changes of all requests of a user: from this process at once, from the database once a second."""

import asyncio
import contextlib
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self
from uuid import UUID

import asyncpg
import structlog

from server.actors.subscription import View
from server.errors import RateLimited, Unavailable
from server.model_request import RequestId, Status, UserId, lowest_id_at
from server.storage.database import DatabaseAway, DedicatedConnection

MAX_FEEDS = 5_000
MAX_FEEDS_PER_USER = 100
"""Each change of a request goes to all feeds of its user, on the event loop that all clients share."""
MAX_ENDED = 2_000
"""Number of final requests that one feed remembers, so that it reports each end once."""
REFRESH_INTERVAL_S = 1.0
MIN_PAUSE_S = 0.1
_LOOK_BACK = timedelta(seconds=15)
"""A request that began and ended between two queries is found by the time in its id. Clocks of instances differ."""

log = structlog.get_logger(__name__)


class Change(NamedTuple):
    """The current state of a request."""

    id: RequestId
    status: Status
    epoch: int


class Feed:
    """The changes of one user's requests, for one reader. Enter it, then read the snapshot, then call `wait`."""

    def __init__(self, feeds: "Feeds", user_id: UserId) -> None:
        self._feeds = feeds
        self.user_id = user_id
        self.has_ended = False
        """Whether the API key of the reader ended."""
        self._live: dict[RequestId, Change] = {}
        self._ended: dict[RequestId, None] = {}
        self._changes: dict[RequestId, Change] = {}
        self._wake_up = asyncio.Event()

    def __enter__(self) -> Self:
        self._feeds.add(self)
        return self

    def __exit__(self, *error: object) -> None:
        self._feeds.remove(self)

    @property
    def is_closed(self) -> bool:
        """Whether the server stops, or the API key of the reader ended."""
        return self.has_ended or self._feeds.is_closed

    @property
    def live(self) -> list[RequestId]:
        """The requests whose end was not reported yet."""
        return list(self._live)

    def begin(self, changes: Sequence[Change]) -> None:
        """Note the snapshot that the reader got; later changes are reported."""
        for change in changes:
            if change.status.is_final:
                self._ended[change.id] = None
                if self._live.pop(change.id, None) is not None:  # reported meanwhile as live, so its end is a change
                    self._changes[change.id] = change
            elif change.id not in self._ended:
                self._live.setdefault(change.id, change)

    def notify(self, change: Change) -> None:
        """Take a state in, if it is new. A slow reader gets only the newest state of each request."""
        known = self._live.get(change.id)
        if change.id in self._ended or (known is not None and (change.epoch < known.epoch or change == known)):
            return
        if change.status.is_final:
            self._live.pop(change.id, None)
            self._ended[change.id] = None
            if len(self._ended) > MAX_ENDED:
                del self._ended[next(iter(self._ended))]
        else:
            self._live[change.id] = change
        self._changes[change.id] = change
        self._wake_up.set()

    def forget(self, request_id: RequestId) -> None:
        """Report the request as ended, because it was deleted."""
        if (known := self._live.get(request_id)) is not None:
            self.notify(known._replace(status=Status.CANCELLED))

    def close(self) -> None:
        self._wake_up.set()

    def end(self) -> None:
        """End this feed, because the API key of its reader ended."""
        self.has_ended = True
        self._wake_up.set()

    async def wait(self, timeout_s: float) -> list[Change]:
        """The changes since the last call; empty after `timeout_s` without one, or when the feed is closed."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake_up.wait()
        except TimeoutError:
            return []
        self._wake_up.clear()
        changes, self._changes = list(self._changes.values()), {}
        return changes


class Feeds:
    """All open feeds: one query a second for all of them. Changes made by this process need no query."""

    def __init__(self, connection: DedicatedConnection) -> None:
        self._connection = connection
        self._by_user: dict[UserId, set[Feed]] = {}
        self._count = 0
        self._wake_up = asyncio.Event()
        self.is_closed = False

    def __len__(self) -> int:
        return self._count

    def open(self, user_id: UserId) -> Feed:
        return Feed(self, user_id)

    def add(self, feed: Feed) -> None:
        if self._count >= MAX_FEEDS:
            raise Unavailable("Too many clients are listening; poll instead, or try again.", retry_after_s=5)
        if len(self._by_user.get(feed.user_id, ())) >= MAX_FEEDS_PER_USER:
            raise RateLimited("Too many streams of your changes are open; close some of them.", retry_after_s=5)
        self._by_user.setdefault(feed.user_id, set()).add(feed)
        self._count += 1
        if self.is_closed:
            feed.close()

    def remove(self, feed: Feed) -> None:
        feeds = self._by_user[feed.user_id]
        feeds.discard(feed)
        self._count -= 1
        if not feeds:
            del self._by_user[feed.user_id]

    def notify(self, user_id: UserId, request_id: RequestId, view: View) -> None:
        """Report a change of a request of this user; never blocks."""
        for feed in self._by_user.get(user_id, ()):
            feed.notify(Change(request_id, view.status, view.epoch))

    def close(self) -> None:
        """End all feeds, because the server stops."""
        self.is_closed = True
        for feeds in self._by_user.values():
            for feed in feeds:
                feed.close()

    def wake(self) -> None:
        """Query soon, because another instance changed something."""
        self._wake_up.set()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(MIN_PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_INTERVAL_S * random.uniform(0.9, 1.1)):  # noqa: S311
                    await self._wake_up.wait()
            self._wake_up.clear()
            try:
                await self.refresh()
            except DatabaseAway as error:
                log.debug("feeds_skipped", reason=str(error))

    async def refresh(self) -> None:
        """Report the changes made by other processes. A request whose row is gone was deleted: it has ended."""
        if not self._by_user:
            return
        known = {
            request_id: user_id
            for user_id, feeds in self._by_user.items()
            for feed in feeds
            for request_id in feed.live
        }
        rows = await self._connection.fetch("feed_requests", list(self._by_user), recent_id(), list(known))
        for row in rows:
            known.pop(row["id"], None)
            for feed in self._by_user.get(row["user_id"], ()):
                feed.notify(change_of(row))
        for request_id, user_id in known.items():
            for feed in self._by_user.get(user_id, ()):
                feed.forget(request_id)


def change_of(row: asyncpg.Record) -> Change:
    return Change(RequestId(row["id"]), Status(row["status"]), row["epoch"])


def recent_id() -> UUID:
    """An id below those of all requests that may have been created since the last query."""
    return lowest_id_at(datetime.now(UTC) - _LOOK_BACK)
