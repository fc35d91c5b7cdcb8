"""Prepares a database: checks that it is the right one, and migrates its schema."""

from typing import Any

import asyncpg
import structlog

from server.errors import CannotStart
from server.pooling import Pooling, find_pooling
from server.settings import Settings
from server.storage.database import Database
from server.storage.migrations import MigrationError, load_migrations, migrate
from server.storage.queries import statements

OLDEST_POSTGRES = 15

log = structlog.get_logger(__name__)


def database_of(settings: Settings, url: str) -> Database:
    """The database at this URL (of the settings, or embedded), with the right pooling and certificate."""
    if settings.database_url is None:
        return Database(url)
    return Database(
        url, pooling=settings.database_pooler or find_pooling(url), root_cert=settings.database_ssl_root_cert
    )


def listening_database(settings: Settings, database: Database) -> Database | None:
    """The database for LISTEN, which needs a session: by `LISTEN_DATABASE_URL`, if it is set.

    `DATABASE_POOLER` describes `DATABASE_URL` only. None behind a transaction pooler alone, where the next client of
    the connection would receive the messages.
    """
    if settings.database_url is None or settings.listen_database_url is None:
        return None if database.pooling is Pooling.TRANSACTION else database
    url = settings.listen_database_url.get_secret_value()
    if find_pooling(url) is Pooling.TRANSACTION:
        return None
    # It may be a pooler in session mode, so only settings are sent that such a pooler knows.
    return Database(url, pooling=Pooling.SESSION, root_cert=settings.database_ssl_root_cert)


async def prepare_database(settings: Settings, database: Database) -> None:
    """Migrate over a separate connection, a session if possible.

    Raises `CannotStart` when an operator has to act first.
    """
    database = listening_database(settings, database) or database
    connection = await database.connect()
    try:
        await require_usable(connection, settings)
        if applied := await migrate(connection, load_migrations(), connect=database.connect):
            log.info("migrations_applied", count=len(applied), first=applied[0].name, last=applied[-1].name)
    except MigrationError as error:
        is_forbidden = isinstance(error.__cause__, asyncpg.InsufficientPrivilegeError)
        cure = await explain_missing_grants(connection) if is_forbidden else None
        raise CannotStart(cure or f"The database cannot be migrated: {error.message}") from error
    finally:
        connection.terminate()


async def explain_missing_grants(connection: "asyncpg.Connection[Any]") -> str | None:
    """One line with the statements to run, if this user lacks a privilege that migrations need."""
    grants = [row["statement"] for row in await connection.fetch(statements()["list_missing_grants"])]
    if not grants:
        return None
    return (
        "DATABASE_URL: this user may not create tables in schema public, or may not create schemas. "
        f"As the owner of the database or a superuser, run: {' '.join(grants)}"
    )


async def require_usable(connection: "asyncpg.Connection[Any]", settings: Settings) -> None:
    """Raise `CannotStart` if Postgres is too old, or if it does not hold the accounts in use."""
    major = connection.get_server_version().major
    if major < OLDEST_POSTGRES:
        raise CannotStart(f"DATABASE_URL: Postgres {major} is too old: {OLDEST_POSTGRES} or newer is needed.")
    is_supabase = await connection.fetchval(statements()["is_supabase"])
    if is_supabase and not settings.supabase_url:
        raise CannotStart(
            "DATABASE_URL is the database of a Supabase project, whose Auth owns the accounts: "
            "set SUPABASE_URL and SUPABASE_ANON_KEY as well."
        )
    if settings.supabase_url and not is_supabase:
        raise CannotStart(
            "SUPABASE_URL is set, but DATABASE_URL is not the database of a Supabase project, where its accounts are: "
            "set it to the project's connection string."
        )
