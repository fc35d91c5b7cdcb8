"""Opens the database for commands other than `serve`."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg

from server.commands.serve import open_shared_database
from server.settings import Settings
from server.storage.prepare import database_of, prepare_database
from server.storage.queries import Queries, load_queries, sql_directory


@contextlib.asynccontextmanager
async def open_prepared(settings: Settings) -> AsyncIterator[tuple["asyncpg.Connection[Any]", Queries]]:
    """A connection to the migrated database, and its queries. Works with or without a running server."""
    queries = load_queries(sql_directory() / "queries")
    async with open_shared_database(settings) as url:
        database = database_of(settings, url)
        await prepare_database(settings, database, directory=sql_directory() / "migrations", queries=queries)
        connection = await database.connect()
        try:
            yield connection, queries
        finally:
            connection.terminate()
