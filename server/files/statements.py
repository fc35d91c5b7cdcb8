"""Short statements of actors about files, on a line of their own: a pooled call can hang, and a generation must not."""

from typing import Any

import asyncpg

from server.errors import Unavailable
from server.storage.database import DatabaseAway, DedicatedConnection
from server.storage.faults import Fault, classify

_RETRY_S = 2.0
_TRIES = 3


class Statements:
    """Named queries on one line; a database that is away, or stays busy, is `Unavailable`."""

    def __init__(self, connection: DedicatedConnection) -> None:
        self._connection = connection

    async def fetch(self, name: str, *args: Any) -> list[asyncpg.Record]:
        """Run one statement; deadlocks are tried again."""
        for _ in range(_TRIES):
            try:
                return await self._connection.fetch(name, *args)
            except DatabaseAway as error:
                raise Unavailable("The database is not available; try again.", retry_after_s=_RETRY_S) from error
            except asyncpg.PostgresError as error:
                if classify(error) is not Fault.CONTENTION:
                    raise
        raise Unavailable("The database is busy; try again.", retry_after_s=_RETRY_S)
