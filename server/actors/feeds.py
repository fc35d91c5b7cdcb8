"""Who wants to hear of all requests of a user: told by this process at once, and once a second by the database."""

import asyncio
import contextlib
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import NamedTuple, Self
from uuid import UUID

import asyncpg
import structlog

from server.actors.subscription import View
from server.errors import RateLimited, Unavailable
from server.model_request import RequestId, Status, UserId
from server.storage.database import DatabaseAway, DedicatedConnection

MAX_FEEDS = 5_000
MAX_FEEDS_PER_USER = 100
"""Each change of a request is told to all of them, on the event loop that everybody shares."""
MAX_ENDED = 2_000
"""Ends that one feed remembers to have told."""
LOOK_INTERVAL_S = 1.0
MIN_PAUSE_S = 0.1
_LOOK_BACK = timedelta(seconds=15)
"""A request that lived and died between two looks is found by its id, which tells its time by another's clock."""

log = structlog.get_logger(__name__)


class Change(NamedTuple):
    """How a request stands now."""

    id: RequestId
    status: Status
    epoch: int


class Feed:
    """The changes of one user's requests for one reader. Enter it, then take the snapshot, then read on."""

    def __init__(self, feeds: "Feeds", user_id: UserId) -> None:
        self._feeds = feeds
        self.user_id = user_id
        self._live: dict[RequestId, Change] = {}
        self._ended: dict[RequestId, None] = {}
        self._changes: dict[RequestId, Change] = {}
        self._stirred = asyncio.Event()

    def __enter__(self) -> Self:
        self._feeds.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._feeds.remove(self)

    @property
    def is_closed(self) -> bool:
        """The server stops."""
        return self._feeds.is_closed

    @property
    def live(self) -> list[RequestId]:
        """Those whose end is still to be told."""
        return list(self._live)

    def begin(self, changes: Sequence[Change]) -> None:
        """The snapshot that its reader has got; whatever is told from here on is news."""
        for change in changes:
            if change.status.is_final:
                self._ended[change.id] = None
                if self._live.pop(change.id, None) is not None:  # told meanwhile, so its end is news
                    self._changes[change.id] = change
            elif change.id not in self._ended:
                self._live.setdefault(change.id, change)

    def tell(self, change: Change) -> None:
        """Take a change in, if it is one. A reader that does not read gets the newest state of each request only."""
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
        self._stirred.set()

    def forget(self, request_id: RequestId) -> None:
        """The request was deleted."""
        if (known := self._live.get(request_id)) is not None:
            self.tell(known._replace(status=Status.CANCELLED))

    def close(self) -> None:
        self._stirred.set()

    async def wait(self, timeout_s: float) -> list[Change]:
        """What changed since the last call; empty when nothing did for so long, or the server stops."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._stirred.wait()
        except TimeoutError:
            return []
        self._stirred.clear()
        changes, self._changes = list(self._changes.values()), {}
        return changes


class Feeds:
    """One query a second for all feeds together; what this process does itself is told without it."""

    def __init__(self, connection: DedicatedConnection) -> None:
        self._connection = connection
        self._by_user: dict[UserId, set[Feed]] = {}
        self._count = 0
        self._stirred = asyncio.Event()
        self.is_closed = False

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

    def tell(self, user_id: UserId, request_id: RequestId, view: View) -> None:
        """A request of this user changed; never blocks."""
        for feed in self._by_user.get(user_id, ()):
            feed.tell(Change(request_id, view.status, view.epoch))

    def close(self) -> None:
        """Send everyone home."""
        self.is_closed = True
        for feeds in self._by_user.values():
            for feed in feeds:
                feed.close()

    def wake(self) -> None:
        """Something changed elsewhere: look soon."""
        self._stirred.set()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(MIN_PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL_S * random.uniform(0.9, 1.1)):  # noqa: S311
                    await self._stirred.wait()
            self._stirred.clear()
            try:
                await self.look()
            except DatabaseAway as error:
                log.debug("feeds_skipped", reason=str(error))

    async def look(self) -> None:
        """Tell what other processes did. A request that is there no more was deleted, which ends it."""
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
                feed.tell(change_of(row))
        for request_id, user_id in known.items():
            for feed in self._by_user.get(user_id, ()):
                feed.forget(request_id)


def change_of(row: asyncpg.Record) -> Change:
    return Change(RequestId(row["id"]), Status(row["status"]), row["epoch"])


def recent_id() -> UUID:
    """Below the ids of all requests that can have been made since the last look."""
    moment = datetime.now(UTC) - _LOOK_BACK
    return UUID(int=int(moment.timestamp() * 1000) << 80)
