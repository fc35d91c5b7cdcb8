"""The migration runner on both versions of Postgres, with migrations of its own."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from server.storage.database import Database
from server.storage.migrations import MigrationError, Standing, load_migrations, migrate, status

BOOKS = "CREATE TABLE books (id integer PRIMARY KEY);\nINSERT INTO books VALUES (1);\n"
TITLES = "ALTER TABLE books ADD COLUMN title text;\n"
INDEX = """-- migrate: no-transaction
DROP INDEX CONCURRENTLY IF EXISTS books_title;
CREATE INDEX CONCURRENTLY books_title ON books (title);
"""

Connection: TypeAlias = "asyncpg.Connection[Any]"
Write = Callable[..., Path]


@pytest.fixture
async def connection(empty_database: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(empty_database)
    yield connection
    await connection.close()


@pytest.fixture
async def other(empty_database: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(empty_database)
    yield connection
    await connection.close()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes migration files by name, and gives their folder."""

    def write(**files: str) -> Path:
        for name, text in files.items():
            (tmp_path / f"{name.lstrip('_')}.sql").write_text(text, "utf-8")
        return tmp_path

    return write


async def _migrate(
    connection: Connection, directory: Path, *, url: str | None = None, lock_timeout_s: float = 5
) -> list[str]:
    connect = None if url is None else Database(url).connect
    applied = await migrate(connection, load_migrations(directory), connect=connect, lock_timeout_s=lock_timeout_s)
    return [migration.name for migration in applied]


async def _standings(connection: Connection, directory: Path) -> dict[str, Standing]:
    return {entry.name: entry.standing for entry in await status(connection, load_migrations(directory))}


async def test_pending_migrations_are_applied_in_order_and_once(connection: Connection, write: Write) -> None:
    directory = write(_0002_add_titles=TITLES, _0001_create_books=BOOKS)
    assert await _migrate(connection, directory) == ["0001_create_books", "0002_add_titles"]
    assert await _migrate(connection, directory) == []
    assert await connection.fetch("SELECT id, title FROM books") == [(1, None)]


async def test_later_files_are_applied_to_a_database_that_has_the_earlier(connection: Connection, write: Write) -> None:
    await _migrate(connection, write(_0001_create_books=BOOKS))
    assert await _migrate(connection, write(_0002_add_titles=TITLES)) == ["0002_add_titles"]


async def test_status_changes_nothing_and_names_what_is_pending(connection: Connection, write: Write) -> None:
    directory = write(_0001_create_books=BOOKS)
    assert await _standings(connection, directory) == {"0001_create_books": Standing.PENDING}
    assert await connection.fetchval("SELECT to_regclass('public.schema_migrations')") is None
    await _migrate(connection, directory)
    write(_0002_add_titles=TITLES)
    first, second = await status(connection, load_migrations(directory))
    assert (first.standing, second.standing) == (Standing.APPLIED, Standing.PENDING)
    assert first.applied_at is not None
    assert second.applied_at is None


async def test_a_failing_migration_leaves_nothing_of_itself_and_keeps_the_earlier(
    connection: Connection, write: Write
) -> None:
    directory = write(_0001_create_books=BOOKS, _0002_break_it="CREATE TABLE pens ();\nSELECT 1 / 0;")
    with pytest.raises(MigrationError, match=r"^0002_break_it failed and was rolled back: division by zero .*22012"):
        await _migrate(connection, directory)
    assert await connection.fetchval("SELECT to_regclass('pens')") is None
    assert (await _standings(connection, directory))["0001_create_books"] is Standing.APPLIED
    write(_0002_break_it="CREATE TABLE pens ();")
    assert await _migrate(connection, directory) == ["0002_break_it"]


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ({"_0001_create_books": BOOKS}, {"_0001_create_books": BOOKS + "--"}, "0001_create_books was changed"),
        ({"_0001_create_books": BOOKS}, {"_0001_create_pages": BOOKS}, "0001_create_pages was changed or renamed"),
    ],
)
async def test_a_file_that_changed_after_it_was_applied_is_refused(
    connection: Connection, write: Write, before: dict[str, str], after: dict[str, str], complaint: str
) -> None:
    directory = write(**before)
    await _migrate(connection, directory)
    for file in directory.iterdir():
        file.unlink()
    write(**after, _0002_add_titles=TITLES)
    with pytest.raises(MigrationError, match=complaint):
        await _migrate(connection, directory)
    assert Standing.CHANGED in (await _standings(connection, directory)).values()


async def test_a_file_that_changed_is_taken_where_a_later_one_says_that_it_makes_up_for_it(
    connection: Connection, write: Write
) -> None:
    directory = write(_0001_create_books=BOOKS)
    await _migrate(connection, directory)
    former = hashlib.sha256(BOOKS.encode()).hexdigest()
    heals = f"-- heals: 0001_create_books {former}\n-- The first ones had no pages.\nCREATE TABLE pages ();\n"
    write(_0001_create_books=BOOKS + "CREATE TABLE pages ();", _0002_add_pages=heals)
    assert await _migrate(connection, directory) == ["0002_add_pages"]
    assert await _standings(connection, directory) == {
        "0001_create_books": Standing.APPLIED,
        "0002_add_pages": Standing.APPLIED,
    }
    write(_0001_create_books=BOOKS + "CREATE TABLE pens ();", _0002_add_pages=heals.replace(former, "0" * 64))
    with pytest.raises(MigrationError, match="0001_create_books was changed"):
        await _migrate(connection, directory)


async def test_windows_line_ends_are_not_a_change(connection: Connection, write: Write) -> None:
    directory = write(_0001_create_books=BOOKS)
    await _migrate(connection, directory)
    (directory / "0001_create_books.sql").write_bytes(BOOKS.replace("\n", "\r\n").encode())
    assert await _migrate(connection, directory) == []


async def test_a_database_that_is_newer_than_the_program_is_accepted(connection: Connection, write: Write) -> None:
    directory = write(_0001_create_books=BOOKS, _0002_add_titles=TITLES)
    await _migrate(connection, directory)
    (directory / "0002_add_titles.sql").unlink()
    assert await _migrate(connection, directory) == []
    assert (await _standings(connection, directory))["0002_add_titles"] is Standing.NEWER


async def test_a_hole_in_the_history_of_the_database_is_refused(connection: Connection, write: Write) -> None:
    directory = write(_0001_create_books=BOOKS, _0002_add_titles=TITLES)
    await _migrate(connection, directory)
    await connection.execute("DELETE FROM schema_migrations WHERE number = 1")
    with pytest.raises(MigrationError, match="0001_create_books was not applied although a later one was"):
        await _migrate(connection, directory)


async def test_a_table_of_another_program_is_left_alone(connection: Connection, write: Write) -> None:
    await connection.execute("CREATE TABLE schema_migrations (version text)")
    with pytest.raises(MigrationError, match="belongs to another program"):
        await _migrate(connection, write(_0001_create_books=BOOKS))


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        (["0001_create_books", "0003_add_titles"], "0002 is missing"),
        (["0002_add_titles"], "0001 is missing"),
        (["0001_create_books", "0001_create_pens"], "two files have this number"),
        (["1_create_books"], "is named NNNN_verb_object.sql"),
        (["0001_Create"], "is named NNNN_verb_object.sql"),
        ([], "no migration found"),
    ],
)
def test_files_out_of_order_are_refused(write: Write, files: list[str], complaint: str) -> None:
    directory = write(**{f"_{name}": BOOKS for name in files})
    with pytest.raises(MigrationError, match=complaint):
        load_migrations(directory)


async def test_two_runners_at_once_apply_everything_once(
    connection: Connection, other: Connection, empty_database: str, write: Write
) -> None:
    """Without the lock both would create the table, and the two index builds would deadlock."""
    slow = "SELECT pg_sleep(0.05);\n"
    directory = write(_0001_create_books=slow + BOOKS, _0002_add_titles=slow + TITLES, _0003_index_titles=INDEX)
    one, two = await asyncio.gather(*(_migrate(each, directory, url=empty_database) for each in (connection, other)))
    assert sorted([*one, *two]) == ["0001_create_books", "0002_add_titles", "0003_index_titles"]
    assert await connection.fetchval("SELECT count(*) FROM schema_migrations") == 3
    assert await connection.fetchval("SELECT count(*) FROM books") == 1


async def test_a_lock_that_is_not_free_in_time_is_explained(
    connection: Connection, other: Connection, write: Write
) -> None:
    await _migrate(connection, write(_0001_create_books=BOOKS))
    async with other.transaction():
        await other.execute("LOCK TABLE books")
        with pytest.raises(MigrationError, match=r"0002_add_titles: a lock was not free within 0\.05 s"):
            await _migrate(connection, write(_0002_add_titles=TITLES), lock_timeout_s=0.05)
    assert await _migrate(connection, write()) == ["0002_add_titles"]


async def test_a_lost_connection_is_not_a_migration_error(
    connection: Connection, other: Connection, write: Write
) -> None:
    """The caller waits for the database and tries again; a `MigrationError` would end the program."""
    directory = write(_0001_end_itself="SELECT pg_terminate_backend(pg_backend_pid());")
    with pytest.raises((asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError, asyncpg.InterfaceError)):
        await _migrate(connection, directory)
    write(_0001_end_itself="SELECT 1;")
    assert await _migrate(other, directory) == ["0001_end_itself"]


async def test_marked_files_run_outside_a_transaction(
    connection: Connection, empty_database: str, write: Write
) -> None:
    """CREATE INDEX CONCURRENTLY fails within a transaction, even within that of two statements in one message."""
    text = (
        INDEX + "-- A comment; with a semicolon;\nCREATE INDEX CONCURRENTLY books_id ON books (id)\n    WHERE id > 0;\n"
    )
    directory = write(_0001_create_books=BOOKS, _0002_add_titles=TITLES, _0003_index_books=text)
    await _migrate(connection, directory, url=empty_database)
    names = await connection.fetch("SELECT indexname FROM pg_indexes WHERE tablename = 'books' ORDER BY 1")
    assert [row["indexname"] for row in names] == ["books_id", "books_pkey", "books_title"]


async def test_a_marked_file_that_failed_is_run_again(
    connection: Connection, empty_database: str, write: Write
) -> None:
    """The failed build leaves an invalid index behind, which the file itself removes."""
    unique = INDEX.replace("CREATE INDEX", "CREATE UNIQUE INDEX")
    books = "CREATE TABLE books (title text);\nINSERT INTO books VALUES ('same'), ('same');"
    directory = write(_0001_create_books=books, _0002_index_books=unique)
    with pytest.raises(MigrationError, match=r"0002_index_books failed and is run again .*23505"):
        await _migrate(connection, directory, url=empty_database)
    assert (await _standings(connection, directory))["0002_index_books"] is Standing.PENDING
    await connection.execute("DELETE FROM books")
    assert await _migrate(connection, directory, url=empty_database) == ["0002_index_books"]
    assert await connection.fetchval("SELECT indisvalid FROM pg_index WHERE indexrelid = 'books_title'::regclass")


async def test_a_marked_file_without_a_second_connection_is_refused(connection: Connection, write: Write) -> None:
    with pytest.raises(MigrationError, match="takes a second connection"):
        await _migrate(connection, write(_0001_index_books=INDEX))


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("DO $$ BEGIN PERFORM 1; END $$;", "function bodies"),
        ("create index concurrently if not exists books_id on books (id);", "an index whose build broke off"),
    ],
)
def test_a_marked_file_that_cannot_be_cut_or_repeated_is_refused(write: Write, statement: str, complaint: str) -> None:
    directory = write(_0001_create_books=f"-- migrate: no-transaction\n{statement}")
    with pytest.raises(MigrationError, match=complaint):
        load_migrations(directory)


async def test_a_user_who_may_not_create_tables_is_told(connection: Connection, write: Write) -> None:
    await connection.execute("CREATE ROLE guest")
    try:
        await connection.execute("SET ROLE guest")
        with pytest.raises(MigrationError, match="may not create tables in schema public"):
            await _migrate(connection, write(_0001_create_books=BOOKS))
    finally:
        await connection.execute("RESET ROLE; DROP ROLE guest")


async def test_the_table_of_the_runner_is_hidden_from_other_roles(connection: Connection, write: Write) -> None:
    await _migrate(connection, write(_0001_create_books=BOOKS))
    await connection.execute("CREATE ROLE guest; GRANT SELECT ON schema_migrations TO guest")
    try:
        await connection.execute("SET ROLE guest")
        assert await connection.fetch("SELECT number FROM schema_migrations") == []
    finally:
        await connection.execute("RESET ROLE; DROP OWNED BY guest; DROP ROLE guest")
