"""The command `migrate`: applies the migrations, or shows their status."""

from server.commands.maintenance import explaining
from server.commands.serve import open_database
from server.errors import CannotStart
from server.settings import Settings
from server.storage.database import Database
from server.storage.migrations import Entry, MigrationError, Standing, load_migrations, status
from server.storage.prepare import database_of, prepare_database, require_usable


async def run_migrate(settings: Settings, *, status_only: bool) -> int:
    """Exit code 0: the schema is the newest. 1: it is not. `status_only` applies nothing."""
    async with open_database(settings) as url:
        database = database_of(settings, url)
        try:
            with explaining(database):
                entries = await _migrate(settings, database, status_only=status_only)
        except MigrationError as error:
            raise CannotStart(error.message) from error
    for entry in entries:
        when = "" if entry.applied_at is None else f"{entry.applied_at:%Y-%m-%d %H:%M:%S} UTC"
        print(f"{entry.name:<40} {entry.standing:<9} {when}".rstrip())  # noqa: T201 - the command's output
    is_settled = all(entry.standing in {Standing.APPLIED, Standing.NEWER} for entry in entries)
    return 0 if is_settled else 1


async def _migrate(settings: Settings, database: Database, *, status_only: bool) -> list[Entry]:
    if not status_only:
        await prepare_database(settings, database)
    connection = await database.connect()
    try:
        await require_usable(connection, settings)
        return await status(connection, load_migrations())
    finally:
        connection.terminate()
