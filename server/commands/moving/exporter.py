"""The command `export`: a consistent snapshot of accounts, requests, usage and files, as one archive."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg

from server.commands.maintenance import open_prepared
from server.commands.moving.archive import ArchiveWriter
from server.commands.moving.files import add_files
from server.settings import Settings
from server.storage.objects import Objects, create_objects
from server.storage.queries import statements

_NAMES = {
    "idempotency_keys": "idempotency keys",
    "api_keys": "API keys",
    "usage": "days of usage",
    "file_rows": "rows of files",
    "file_uses": "uses of files",
}
_PAGE_ROWS = 500
_PAGE_BYTES = 4 * 1024 * 1024
_FETCH_ROWS = 25
_FETCH_TIMEOUT_S = 300.0
_EXPORTED = {
    "users": "export_users",
    "requests": "export_requests",
    "idempotency_keys": "export_idempotency_keys",
    "api_keys": "export_api_keys",
    "usage": "export_usage",
    "file_rows": "export_file_rows",
    "file_uses": "export_file_uses",
}
"""Kinds of rows and their queries, in the order of the import."""


async def run_export(settings: Settings, path: Path) -> int:
    """Exit code 0: the file is complete. Works with or without a running server; later requests are not in the file."""
    async with open_prepared(settings) as connection:
        objects = create_objects(settings)
        try:
            counts, unfinished = await _export(connection, objects, settings, path)
        finally:
            await objects.close()
    _report(path, counts, unfinished)
    return 0


async def _export(
    connection: "asyncpg.Connection[Any]",
    objects: Objects,
    settings: Settings,
    path: Path,
) -> tuple[Counter[str], asyncpg.Record]:
    about = {"accounts": "supabase" if settings.supabase_url else "embedded"}
    async with ArchiveWriter(path, "export", about) as archive:
        counts = Counter[str]()
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            [unfinished] = await connection.fetch(statements()["count_unfinished"])
            for kind, query in _EXPORTED.items():
                number = counts[kind] = 0
                async for rows in _pages(connection, statements()[query]):
                    number += 1
                    counts[kind] += len(rows)
                    await archive.add(f"{kind}/{number:06}.json", f"[{','.join(rows)}]".encode())
        # After the rows, so that every file that an exported request names is in the archive.
        counts["files"] = await add_files(archive, objects)
    return counts, unfinished


async def _pages(connection: "asyncpg.Connection[Any]", query: str) -> AsyncIterator[list[str]]:
    """Pages of rows as JSON texts, bounded by number and size."""
    rows: list[str] = []
    size = 0
    cursor = connection.cursor(query, prefetch=_FETCH_ROWS, timeout=_FETCH_TIMEOUT_S)
    async for record in cursor:
        rows.append(record["line"])
        size += len(record["line"])
        if len(rows) == _PAGE_ROWS or size >= _PAGE_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _report(path: Path, counts: Mapping[str, int], unfinished: asyncpg.Record) -> None:
    what = ", ".join(f"{count} {_NAMES.get(kind, kind)}" for kind, count in counts.items())
    print(f"{path}: {what}.")  # noqa: T201 - the command's output
    print("It contains prompts, answers and password hashes: protect it like the database.")  # noqa: T201
    if unfinished["instances"]:
        print(  # noqa: T201
            "A server runs on this database: requests that it accepts from now on are not in the file, and "
            f"{unfinished['requests']} requests that are not final would run in both places. To move, stop it first."
        )
