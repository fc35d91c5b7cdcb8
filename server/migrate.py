"""The command `migrate`: brings the database to the newest schema, or shows where it stands."""

import asyncpg

from server.boot import prepare_database
from server.engine import CannotStart
from server.serve import open_database
from server.settings import Settings
from server.storage.database import Database, explain_refusal
from server.storage.faults import Fault, classify
from server.storage.migrations import Standing, load_migrations, status
from server.storage.queries import load_queries, sql_directory


async def run_migrate(settings: Settings, *, status_only: bool) -> int:
    """Exit code 0: the schema is the newest (with `status_only`: nothing is missing); 1: it is not."""
    queries = load_queries(sql_directory() / "queries")
    directory = sql_directory() / "migrations"
    async with open_database(settings) as url:
        database = Database(url)
        try:
            if not status_only:
                await prepare_database(settings, database, directory=directory, queries=queries)
            connection = await database.connect()
        except (asyncpg.PostgresError, OSError, TimeoutError) as error:
            if classify(error) is Fault.BROKEN and explain_refusal(error) is None:
                raise
            raise CannotStart(
                explain_refusal(error) or f"The database at {database.place} cannot be reached."
            ) from error
        try:
            entries = await status(connection, load_migrations(directory), queries)
        finally:
            connection.terminate()
    for entry in entries:
        when = "" if entry.applied_at is None else f"{entry.applied_at:%Y-%m-%d %H:%M:%S} UTC"
        print(f"{entry.name:<40} {entry.standing:<9} {when}".rstrip())  # noqa: T201 - the command's output
    is_settled = all(entry.standing in {Standing.APPLIED, Standing.NEWER} for entry in entries)
    return 0 if is_settled else 1
