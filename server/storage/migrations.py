"""Migrates the schema: applies `sql/migrations/NNNN_verb_object.sql` in order, each once, by one runner at a time."""

import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import asyncpg

from server.storage.database import Connect
from server.storage.faults import Fault, classify
from server.storage.queries import sql_directory, statements

MIGRATION_TIMEOUT_S = 600.0
"""The longest a statement may take, and the longest a runner waits for another one."""

LOCK_TIMEOUT_S = 10.0
"""How long a migration may wait for a lock. Later statements on that table wait behind it."""

_OUTSIDE = "-- migrate: no-transaction"
_FILE = re.compile(r"(?P<number>[0-9]{4})_[a-z0-9]+(_[a-z0-9]+)+")
_HEALS = re.compile(r"^-- heals: (\S+) ([0-9a-f]{64})$", re.MULTILINE)
_STATEMENT_END = re.compile(r";[ \t]*(?:\n|\Z)")


class MigrationError(Exception):
    """The schema cannot be migrated. `message` is one line with the reason and the fix."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `statements` is one text for a transaction, or several that run one by one outside a transaction.

    `heals` are earlier files, by name and former checksum, whose effect this file brings up to date. `formers` are the
    former checksums with which this file counts as applied.
    """

    number: int
    name: str
    checksum: str
    statements: tuple[str, ...]
    in_transaction: bool
    heals: tuple[tuple[str, str], ...] = ()
    formers: tuple[str, ...] = ()


class Standing(StrEnum):
    APPLIED = "applied"
    PENDING = "pending"
    CHANGED = "changed"
    """Applied, but its file has changed since."""
    MISSING = "missing"
    """Applied, but its file is missing, and later files exist."""
    SKIPPED = "skipped"
    """Not applied, although a later one is."""
    NEWER = "newer"
    """Applied by a newer version of this program."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A migration in the output of `migrate --status`."""

    number: int
    name: str
    standing: Standing
    applied_at: datetime | None


def load_migrations(directory: Path | None = None) -> tuple[Migration, ...]:
    """This program's migrations, or those of another folder.

    They are numbered 0001, 0002 and so on without a gap; `MigrationError` for anything else.
    """
    directory = directory or sql_directory() / "migrations"
    migrations = [_read(path) for path in sorted(directory.glob("*.sql"))]
    for expected, migration in enumerate(migrations, start=1):
        if migration.number != expected:
            problem = "two files have this number" if migration.number < expected else f"{expected:04} is missing"
            raise MigrationError(f"{migration.name}: {problem}; migrations are numbered 0001, 0002, … without a gap.")
    if not migrations:
        raise MigrationError(f"{directory}: no migration found. Is the sql folder installed with the server package?")
    healed = [former for migration in migrations for former in migration.heals]
    return tuple(
        replace(migration, formers=tuple(checksum for name, checksum in healed if name == migration.name))
        for migration in migrations
    )


async def migrate(
    connection: "asyncpg.Connection[Any]",
    migrations: Sequence[Migration],
    *,
    connect: Connect | None = None,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
) -> list[Migration]:
    """Apply pending migrations and return them. Any number of instances may call it at once.

    `connect` opens the second connection that a migration outside a transaction needs.

    A database that is newer than this program is accepted. Changes come as expand, deploy, contract, so the previous
    version works on it, and a rollback has to start. `status` shows such migrations.
    Raises `MigrationError`, or asyncpg's error when the database goes away. Migrations applied before stay applied.
    """
    runner = _Runner(connection, connect, lock_timeout_s)
    await runner.prepare()
    applied = await runner.applied()
    _refuse_disorder(_compare(migrations, applied))
    return [migration for migration in migrations if migration.number not in applied and await runner.apply(migration)]


async def status(connection: "asyncpg.Connection[Any]", migrations: Sequence[Migration]) -> list[Entry]:
    """All migrations of the files and of the database by number. Changes nothing."""
    runner = _Runner(connection, None, LOCK_TIMEOUT_S)
    return _compare(migrations, await runner.applied() if await runner.has_table() else {})


class _Runner:
    """The statements of one run on one connection."""

    def __init__(
        self,
        connection: "asyncpg.Connection[Any]",
        connect: Connect | None,
        lock_timeout_s: float,
    ) -> None:
        self._connection = connection
        self._connect = connect
        self._lock_timeout_s = lock_timeout_s

    async def has_table(self) -> bool:
        return bool(await self._connection.fetchval(statements()["find_migration_table"]))

    async def prepare(self) -> None:
        """Create the table, unless it exists or another runner creates it at the same time."""
        if await self.has_table():
            return
        try:
            async with self._connection.transaction():
                await self._connection.execute(statements()["create_migration_table"])
                await self._connection.execute(statements()["hide_migration_table"])
        except (asyncpg.DuplicateTableError, asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
            return  # which error it is depends on the progress of the other runner
        except asyncpg.InsufficientPrivilegeError as error:
            raise MigrationError("DATABASE_URL: this user may not create tables in schema public.") from error

    async def applied(self) -> dict[int, asyncpg.Record]:
        """The rows of the table by number."""
        try:
            rows = await self._connection.fetch(statements()["list_applied_migrations"])
        except asyncpg.UndefinedColumnError as error:
            raise MigrationError(
                "public.schema_migrations belongs to another program: give this one a database of its own."
            ) from error
        return {row["number"]: row for row in rows}

    async def apply(self, migration: Migration) -> bool:
        """Apply one migration unless it is applied. Returns whether this runner did it."""
        async with self._only_runner(migration):
            if row := (await self.applied()).get(migration.number):
                _refuse_disorder([_entry(migration, row)])
                return False
            if migration.in_transaction:
                await _execute(self._connection, migration)
            else:
                await self._execute_outside(migration)
            await self._connection.execute(
                statements()["record_migration"], migration.number, migration.name, migration.checksum
            )
        return True

    @asynccontextmanager
    async def _only_runner(self, migration: Migration) -> AsyncIterator[None]:
        """A transaction that holds the lock. Errors of Postgres in it become `MigrationError`."""
        try:
            async with self._connection.transaction():
                await self._limit_lock_wait(MIGRATION_TIMEOUT_S)
                await self._connection.execute(statements()["lock_migration_table"], timeout=MIGRATION_TIMEOUT_S)
                await self._limit_lock_wait(self._lock_timeout_s)
                yield
        except asyncpg.LockNotAvailableError as error:
            raise MigrationError(
                f"{migration.name}: a lock was not free within {self._lock_timeout_s:g} s. "
                "End the long transaction that holds it, or try again."
            ) from error
        except asyncpg.PostgresError as error:
            if classify(error) is Fault.AWAY:
                raise
            extent = "and was rolled back" if migration.in_transaction else "and is run again from its beginning"
            raise MigrationError(
                f"{migration.name} failed {extent}: {_words(error)} (SQLSTATE {error.sqlstate})."
            ) from error

    async def _execute_outside(self, migration: Migration) -> None:
        """Run statements that Postgres refuses in a transaction on a second connection, while this one keeps the lock.

        Without the lock two runners would deadlock: a concurrent index build waits for every older snapshot, and a
        runner that waits for another holds a snapshot. For the same reason this transaction must hold no snapshot.
        Locking again costs nothing; as a simple query it closes the portal of the last SELECT, which holds one.
        """
        if self._connect is None:
            raise MigrationError(f"{migration.name} runs outside a transaction, which takes a second connection.")
        await self._connection.execute(statements()["lock_migration_table"])
        second = await self._connect()
        try:
            await _execute(second, migration)
        finally:
            second.terminate()

    async def _limit_lock_wait(self, seconds: float) -> None:
        await self._connection.execute(statements()["limit_lock_wait"], f"{seconds * 1000:.0f}ms")


async def _execute(connection: "asyncpg.Connection[Any]", migration: Migration) -> None:
    for statement in migration.statements:
        await connection.execute(statement, timeout=MIGRATION_TIMEOUT_S)


def _read(path: Path) -> Migration:
    name = _FILE.fullmatch(path.stem)
    if not name:
        raise MigrationError(f"{path.name}: a migration is named NNNN_verb_object.sql, such as 0001_create_users.sql.")
    text = path.read_text("utf-8")
    inside = text.partition("\n")[0].strip() != _OUTSIDE
    return Migration(
        number=int(name["number"]),
        name=path.stem,
        checksum=hashlib.sha256(text.encode()).hexdigest(),
        statements=(text,) if inside else _split(path.name, text),
        in_transaction=inside,
        heals=tuple(_HEALS.findall(text)),
    )


def _split(file: str, text: str) -> tuple[str, ...]:
    """Split at semicolons at ends of lines. Refuses statements that cannot be split, or repeated after a failure."""
    if "$$" in text:
        raise MigrationError(f"{file}: function bodies ($$) belong in a migration of their own, in a transaction.")
    if "CONCURRENTLY IF NOT EXISTS" in text.upper():
        raise MigrationError(
            f"{file}: an index whose build broke off exists and is never used. "
            "Write DROP INDEX CONCURRENTLY IF EXISTS, then CREATE INDEX CONCURRENTLY."
        )
    parts = (part.strip() for part in _STATEMENT_END.split(text))
    return tuple(part for part in parts if any(line and not line.startswith("--") for line in part.splitlines()))


def _compare(migrations: Sequence[Migration], applied: Mapping[int, asyncpg.Record]) -> list[Entry]:
    """The standing of each migration, from files and rows, by number."""
    last_file = max((migration.number for migration in migrations), default=0)
    last_row = max(applied, default=0)
    entries = [
        _entry(migration, applied[migration.number])
        if migration.number in applied
        else Entry(
            migration.number,
            migration.name,
            Standing.SKIPPED if migration.number < last_row else Standing.PENDING,
            None,
        )
        for migration in migrations
    ]
    known = {migration.number for migration in migrations}
    entries += [
        Entry(
            number,
            row["name"],
            Standing.NEWER if number > last_file else Standing.MISSING,
            row["applied_at"],
        )
        for number, row in applied.items()
        if number not in known
    ]
    return sorted(entries, key=lambda entry: entry.number)


def _entry(migration: Migration, row: asyncpg.Record) -> Entry:
    same = row["name"] == migration.name and row["checksum"] in {migration.checksum, *migration.formers}
    return Entry(migration.number, migration.name, Standing.APPLIED if same else Standing.CHANGED, row["applied_at"])


_REFUSALS = {
    Standing.CHANGED: "was changed or renamed after it was applied: restore the file, put the change into a new one.",
    Standing.MISSING: "was applied to this database and its file is missing: is this the database of another program?",
    Standing.SKIPPED: "was not applied although a later one was: restore the database, or apply it by hand.",
}


def _refuse_disorder(entries: Sequence[Entry]) -> None:
    for entry in entries:
        if refusal := _REFUSALS.get(entry.standing):
            raise MigrationError(f"{entry.name} {refusal}")


def _words(error: asyncpg.PostgresError) -> str:
    """The message of Postgres without its detail, which may quote rows."""
    return str(error.args[0]) if error.args else type(error).__name__
