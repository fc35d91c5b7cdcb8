"""Reads model requests for their owners: one request, or a page of the history."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID
from weakref import WeakValueDictionary

import orjson

from server.actors.subscription import View
from server.errors import Unavailable
from server.model_request import RequestId, Status, UserId, lowest_id_at
from server.schemas import render_record
from server.storage.reader import PooledQueries
from server.transcript import Transcript

MAX_PAGE_BYTES = 4 * 1024 * 1024
_FIRST_CHUNK = 16
_PAGES_AT_ONCE = 8
"""Pages read at the same time. More would only wait for each other while they use memory."""
_PAGES_OF_ONE_USER = 2
"""So that others get their turns, however many pages one user asks for, and however long each takes."""
_CLOCKS_DIFFER = timedelta(hours=1)
"""At most: `created_at` is by the clock of the database, an id by that of an instance."""
_TURN_S = 10.0


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters of a page; None does not filter. `cursor` is the id of the last request of the previous page.

    `model_types` are the names of one model type, since a request keeps the name that it was made with.
    """

    limit: int = 100
    cursor: UUID | None = None
    status: Status | None = None
    model_types: Sequence[str] | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Public objects, newest first; `next_cursor` is None on the last page."""

    objects: list[bytes]
    next_cursor: UUID | None


class History:
    """Every read is filtered by the owner in SQL: requests of others do not exist for a user."""

    def __init__(self, reader: PooledQueries) -> None:
        self._reader = reader
        self._turns = asyncio.Semaphore(_PAGES_AT_ONCE)
        self._turns_of_users = WeakValueDictionary[UserId, asyncio.Semaphore]()

    async def get(self, request_id: RequestId, user_id: UserId) -> View | None:
        """The current state of the request, or None if this user has no such request."""
        row = await self._reader.fetch_row("get_request", request_id, user_id)
        return None if row is None else View(Status(row["status"]), row["epoch"], render_record(dict(row)))

    async def transcript(self, request_id: RequestId, user_id: UserId) -> Transcript | None:
        """The text of a final request, for a stream, or None if this user has no such request."""
        row = await self._reader.fetch_row("get_transcript", request_id, user_id)
        if row is None:
            return None
        if row["output_data"] is None:
            return Transcript.rebuild({})
        shape = row["segments"]
        return Transcript.rebuild(orjson.loads(row["output_data"]), None if shape is None else orjson.loads(shape))

    async def page(self, user_id: UserId, filters: Filters) -> Page:
        """Up to `limit` requests, fewer once `MAX_PAGE_BYTES` are reached (at least one). Raises `Unavailable`.

        Rows are fetched in chunks sized by those before, so that no page of large rows is ever in memory whole.
        """
        own_turns = self._turns_of_users.setdefault(user_id, asyncio.Semaphore(_PAGES_OF_ONE_USER))
        async with _turn(own_turns), _turn(self._turns):
            return await self._read_page(user_id, filters)

    async def _read_page(self, user_id: UserId, filters: Filters) -> Page:
        objects: list[bytes] = []
        size, cursor, chunk = 0, filters.cursor, _FIRST_CHUNK
        after, before = filters.created_after, filters.created_before
        oldest = None if after is None else lowest_id_at(after, shift=-_CLOCKS_DIFFER)
        if before is not None:
            newest = lowest_id_at(before, shift=_CLOCKS_DIFFER)
            cursor = newest if cursor is None else min(cursor, newest)
        while len(objects) < filters.limit:
            wanted = min(chunk, filters.limit - len(objects))
            rows = await self._reader.fetch(
                "list_requests",
                user_id,
                cursor,
                filters.status,
                filters.model_types,
                after,
                before,
                wanted + 1,
                oldest,
            )
            for row in rows[:wanted]:
                body = render_record(dict(row))
                if objects and size + len(body) > MAX_PAGE_BYTES:
                    return Page(objects, cursor)
                objects.append(body)
                size += len(body)
                cursor = row["id"]
            if len(rows) <= wanted:
                return Page(objects, None)
            chunk = max(_FIRST_CHUNK, (MAX_PAGE_BYTES - size) // (size // len(objects) + 1))
        return Page(objects, cursor)


@contextlib.asynccontextmanager
async def _turn(turns: asyncio.Semaphore) -> AsyncGenerator[None, None]:
    """Wait for a turn and give it back. Raises `Unavailable` if that takes too long."""
    try:
        async with asyncio.timeout(_TURN_S):
            await turns.acquire()
    except TimeoutError:
        raise Unavailable("Too many pages are being read; try again.", retry_after_s=2) from None
    try:
        yield
    finally:
        turns.release()
