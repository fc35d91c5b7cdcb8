"""Short statements on a pool, for routes. Every wait has a limit; a database that is away becomes a 503."""

import asyncio
import contextlib
from typing import Any

import asyncpg

from server.errors import Unavailable
from server.storage.database import ACQUIRE_TIMEOUT_S, Database
from server.storage.faults import Fault, classify
from server.storage.queries import statements

KEEP_INTERVAL_S = 60.0
"""Shorter than the time after which the pool closes an idle connection."""
_TRIES = 3
_PAUSE_S = 0.02
_CLOSE_TIMEOUT_S = 2.0


class PooledQueries:
    """Runs named queries; every statement is one round trip, and every wait has a limit."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pool: asyncpg.Pool[Any] | None = None
        self._silences = database.silences

    async def open(self) -> None:
        """Create the pool. It connects at the first statement, so the database need not be available yet."""
        self._pool = await self._database.create_pool()

    async def close(self) -> None:
        """Close idle connections and drop the others: a pool may wait for ever for one that hangs."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await pool.close()
            pool.terminate()

    async def check(self) -> None:
        """Open a connection. Raises `Unavailable` while that is not possible."""
        await self.fetch("check_reads")

    async def run(self) -> None:
        """Keep one connection open. The pool closes idle ones, and a pooler may then give their places to others."""
        while True:
            await asyncio.sleep(KEEP_INTERVAL_S)
            with contextlib.suppress(Unavailable):
                await self.check()

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Run a named query and return its rows. Retries deadlocks. Raises `Unavailable` when the database is away."""
        for _ in range(_TRIES):
            try:
                pool = await self._open_pool()
                async with pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                    return await connection.fetch(statements()[query], *args)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
                match classify(error):
                    case Fault.AWAY:
                        raise Unavailable("The database is not available; try again.", retry_after_s=2) from error
                    case Fault.CONTENTION:
                        await asyncio.sleep(_PAUSE_S)
                    case _:
                        raise
        raise Unavailable("The database is busy; try again.", retry_after_s=1)

    async def _open_pool(self) -> "asyncpg.Pool[Any]":
        """The pool. After a heartbeat timeout it is replaced, because its connections may be dead."""
        if self._pool is None:
            raise Unavailable("The server is stopping.", retry_after_s=2)
        if self._silences != self._database.silences:
            self._silences = self._database.silences
            self._pool.terminate()  # otherwise the next reader waits for a dead connection
            self._pool = await self._database.create_pool()
        return self._pool

    async def fetch_row(self, query: str, *args: Any) -> asyncpg.Record | None:
        """As `fetch`, but only the first row, or None."""
        rows = await self.fetch(query, *args)
        return rows[0] if rows else None
