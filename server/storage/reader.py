"""Short statements on the pool, for routes: bounded waits, and a database that is away becomes a 503."""

import asyncio
from collections.abc import Mapping
from typing import Any

import asyncpg

from server.errors import Unavailable
from server.storage.database import ACQUIRE_TIMEOUT_S
from server.storage.faults import Fault, classify

_TRIES = 3
_PAUSE_S = 0.02


class Reader:
    """Runs named queries; every statement is one round trip, and every wait has a limit."""

    def __init__(self, pool: "asyncpg.Pool[Any]", queries: Mapping[str, str]) -> None:
        self._pool = pool
        self._queries = queries

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """All rows. Raises `Unavailable` when the database is away; deadlocks are tried again."""
        for _ in range(_TRIES):
            try:
                async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                    return await connection.fetch(self._queries[query], *args)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
                match classify(error):
                    case Fault.AWAY:
                        raise Unavailable("The database is not available; try again.", retry_after_s=2) from error
                    case Fault.CONTENTION:
                        await asyncio.sleep(_PAUSE_S)
                    case _:
                        raise
        raise Unavailable("The database is busy; try again.", retry_after_s=1)

    async def fetch_row(self, query: str, *args: Any) -> asyncpg.Record | None:
        """The first row, if there is one."""
        rows = await self.fetch(query, *args)
        return rows[0] if rows else None
