"""Opens the database for commands other than `serve`."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg

from server.actors.peer_notifier import EVERYONE
from server.commands.serve import open_shared_database
from server.errors import CannotStart
from server.settings import Settings
from server.storage.database import Database, explain_refusal
from server.storage.faults import Fault, classify
from server.storage.prepare import database_of, prepare_database
from server.storage.queries import statements

_REVOKED = '["command", ["revoked"]]'
"""In the form of the peer notifier: the sender, then its messages."""


@contextlib.contextmanager
def explaining(database: Database) -> Iterator[None]:
    """Turn the error of a database that refuses or cannot be reached into `CannotStart`."""
    try:
        yield
    except Exception as error:
        if (refusal := explain_refusal(error)) is not None:
            raise CannotStart(refusal) from error
        if classify(error) is not Fault.AWAY:
            raise
        raise CannotStart(f"The database at {database.place} cannot be reached.") from error


@contextlib.asynccontextmanager
async def open_prepared(settings: Settings) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """A connection to the migrated database. Works with or without a running server. Raises `CannotStart`."""
    async with open_shared_database(settings) as url:
        database = database_of(settings, url)
        with explaining(database):
            await prepare_database(settings, database)
            connection = await database.connect()
        try:
            yield connection
        finally:
            connection.terminate()


async def announce_revocation(connection: "asyncpg.Connection[Any]") -> None:
    """Hint the running instances to read what was revoked. Without the hint they read it within 5 s."""
    await connection.fetch(statements()["notify_instances"], [EVERYONE], [_REVOKED])
