"""Short statements of actors about files, on a dedicated connection: a generation must not wait for the pool."""

from typing import Any

import asyncpg

from server.errors import Unavailable
from server.storage.database import DatabaseAway, DedicatedConnection
from server.storage.faults import Fault, classify

_RETRY_S = 2.0
_TRIES = 3


class Statements:
    """Named queries on one connection. An unavailable or busy database raises `Unavailable`."""

    def __init__(self, connection: DedicatedConnection) -> None:
        self._connection = connection

    async def fetch(self, name: str, *args: Any) -> list[asyncpg.Record]:
        """Run one statement. Deadlocks are retried."""
        for _ in range(_TRIES):
            try:
                return await self._connection.fetch(name, *args)
            except DatabaseAway as error:
                raise Unavailable("The database is not available; try again.", retry_after_s=_RETRY_S) from error
            except asyncpg.PostgresError as error:
                if classify(error) is not Fault.CONTENTION:
                    raise
        raise Unavailable("The database is busy; try again.", retry_after_s=_RETRY_S)
