"""Opens the database for commands other than `serve`."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg

from server.commands.serve import open_shared_database
from server.settings import Settings
from server.storage.prepare import database_of, prepare_database


@contextlib.asynccontextmanager
async def open_prepared(settings: Settings) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """A connection to the migrated database. Works with or without a running server."""
    async with open_shared_database(settings) as url:
        database = database_of(settings, url)
        await prepare_database(settings, database)
        connection = await database.connect()
        try:
            yield connection
        finally:
            connection.terminate()
