"""Short statements on the pool, for routes: bounded waits, and a database that is away becomes a 503."""

import asyncio
import contextlib
from typing import Any

import asyncpg

from server.errors import Unavailable
from server.storage.database import ACQUIRE_TIMEOUT_S, Database
from server.storage.faults import Fault, classify
from server.storage.queries import statements

KEEP_INTERVAL_S = 60.0
"""Less than the time after which the pool closes an idle connection."""
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
        """Make the pool; it connects when it is first asked, so the database need not be there yet."""
        self._pool = await self._database.create_pool()

    async def close(self) -> None:
        """Close what is idle and drop the rest: a pool can wait for ever for a connection that hangs."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await pool.close()
            pool.terminate()

    async def check(self) -> None:
        """Have a connection open. Raises `Unavailable` while there is none to be had."""
        await self.fetch("check_reads")

    async def run(self) -> None:
        """Keep one connection open: the pool closes those that are idle, and the place may be taken by then."""
        while True:
            await asyncio.sleep(KEEP_INTERVAL_S)
            with contextlib.suppress(Unavailable):
                await self.check()

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """All rows. Raises `Unavailable` when the database is away; deadlocks are tried again."""
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
        """The pool; a new one when the network has swallowed something, which tells nobody what else it has."""
        if self._pool is None:
            raise Unavailable("The server is stopping.", retry_after_s=2)
        if self._silences != self._database.silences:
            self._silences = self._database.silences
            self._pool.terminate()  # before a new reader waits for a dead connection as long as a statement may take
            self._pool = await self._database.create_pool()
        return self._pool

    async def fetch_row(self, query: str, *args: Any) -> asyncpg.Record | None:
        """The first row, if there is one."""
        rows = await self.fetch(query, *args)
        return rows[0] if rows else None
