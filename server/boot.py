"""Makes a database ready to serve from: the schema, the check that it is the right one, the signing secret."""

from collections.abc import Mapping
from pathlib import Path

import structlog

from server.engine import CannotStart
from server.settings import Settings
from server.storage.database import Database
from server.storage.migrations import MigrationError, load_migrations, migrate

log = structlog.get_logger(__name__)


async def prepare_database(
    settings: Settings, database: Database, *, directory: Path, queries: Mapping[str, str]
) -> None:
    """Migrate over a connection of its own. Raises `CannotStart` when a person has to do something first."""
    connection = await database.connect()
    try:
        if await connection.fetchval(queries["is_supabase"]) and not settings.supabase_url:
            raise CannotStart(
                "DATABASE_URL is a Supabase project whose Auth owns the accounts, but SUPABASE_URL is not set: "
                "set SUPABASE_URL and SUPABASE_ANON_KEY, or use a database without Supabase's roles."
            )
        for migration in await migrate(connection, load_migrations(directory), queries, connect=database.connect):
            log.info("migration_applied", name=migration.name)
    except MigrationError as error:
        raise CannotStart(f"The database cannot be migrated: {error.message}") from error
    finally:
        connection.terminate()
