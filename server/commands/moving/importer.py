"""The command `import`: what `export` wrote, into the database, accounts and files of the settings."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from server.commands.maintenance import open_prepared
from server.commands.moving.accounts import Account, Accounts, accounts_of, address_of
from server.commands.moving.archive import ArchiveReader, Member
from server.errors import CannotStart
from server.settings import Settings
from server.storage.objects import Objects, create_objects, parse_key
from server.storage.queries import statements

_STATEMENT_TIMEOUT_S = 120.0
_MAX_NAMED_FAILURES = 20
_FIRST = frozenset({"users", "file_rows", "files"})
"""A server that runs here takes a request up as soon as it is there: what it reads is there before it."""


async def run_import(settings: Settings, path: Path) -> int:
    """Exit code 0: everything is there; 1: all but what was named.

    The archive is read to its end before anything is written. What is there already stays as it is, so an import that
    was interrupted, or ended with 1, is simply run again.
    """
    reader = ArchiveReader(path, "export")
    manifest = await reader.check()
    async with open_prepared(settings) as connection:
        objects = create_objects(settings)
        accounts = accounts_of(settings, connection)
        try:
            run = Import(connection, accounts, objects, exported_at=manifest.created_at)
            for is_first_pass in (True, False):
                async for member in reader.members():
                    if (member.name.partition("/")[0] in _FIRST) is is_first_pass:
                        await run.take(member)
        finally:
            await accounts.close()
            await objects.close()
    return run.report()


class Import:
    """One pass through an archive."""

    def __init__(
        self,
        connection: "asyncpg.Connection[Any]",
        accounts: Accounts,
        objects: Objects,
        *,
        exported_at: datetime,
    ) -> None:
        self._connection = connection
        self._accounts = accounts
        self._objects = objects
        self._age = max(timedelta(), datetime.now(UTC) - exported_at)
        self._renamed: dict[UUID, UUID] = {}
        self._failures: dict[UUID, str] = {}
        self._files: dict[str, int] | None = None
        self._new: Counter[str] = Counter()
        self._all: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()

    async def take(self, member: Member) -> None:
        """Import one member. Raises `CannotStart` for a name that no export writes."""
        match member.name.split("/"):
            case ["users", _]:
                await self._take_users(orjson.loads(await member.read()))
            case ["requests", _]:
                await self._take_requests(await member.read())
            case ["idempotency_keys", _]:
                await self._send("import_idempotency_keys", await member.read(), *self._names())
            case ["usage", _]:
                await self._send("import_usage", await member.read(), *self._names())
            case ["file_rows", _]:
                await self._send("import_file_rows", await member.read(), *self._names())
            case ["file_uses", _]:
                await self._send("import_file_uses", await member.read())
            case ["files", user_id, name]:
                await self._take_file(member, user_id, name)
            case _:
                raise CannotStart(f"The archive holds {member.name!r}, which this version does not know.")

    async def _take_users(self, users: list[Account]) -> None:
        for user in users:
            user["email"] = address_of(user)
        ids, emails = [UUID(user["id"]) for user in users], [user["email"] for user in users]
        found = await self._send("find_moved_users", ids, emails)
        by_id, by_email = {row["id"] for row in found}, {row["email"]: row["id"] for row in found}
        new = []
        for user_id, user in zip(ids, users, strict=True):
            if user_id in by_id:
                continue
            if user["email"] in by_email:
                self._renamed[user_id] = by_email[user["email"]]
            else:
                new.append(user)
        failures = await self._accounts.create(new)
        self._failures |= {UUID(user["id"]): failures[UUID(user["id"])] for user in new if UUID(user["id"]) in failures}
        self._all["users"] += len(users)
        self._new["users"] += len(new) - len(failures)
        self._left_out["users"] += len(failures)

    async def _take_requests(self, page: bytes) -> None:
        ids = [UUID(row["id"]) for row in orjson.loads(page)]
        made = await self._send("import_requests", page, *self._names(), self._age)
        self._all["requests"] += len(ids)
        self._new["requests"] += len(made)
        if len(made) < len(ids):
            [[there]] = await self._send("count_imported_requests", ids)
            self._left_out["requests"] += len(ids) - there

    async def _take_file(self, member: Member, user_id: str, name: str) -> None:
        owner = UUID(user_id)
        key = parse_key(f"{self._renamed.get(owner, owner)}/{name}")
        if self._files is None:
            self._files = {found.key: found.size async for found in self._objects.list_files()}
        self._all["files"] += 1
        if owner in self._failures:
            self._left_out["files"] += 1
        elif self._files.get(key) != member.size:
            await self._objects.put(key, member.chunks(), max_bytes=member.size)
            self._new["files"] += 1

    async def _send(self, name: str, *args: Any) -> list[asyncpg.Record]:
        return await self._connection.fetch(statements()[name], *args, timeout=_STATEMENT_TIMEOUT_S)

    def _names(self) -> tuple[list[UUID], list[UUID]]:
        """The ids of accounts that are called otherwise here, before and now."""
        return list(self._renamed.keys()), list(self._renamed.values())

    def report(self) -> int:
        """Say what was done. Returns the exit code."""
        for kind in ("users", "requests", "files"):
            left_out = f", {self._left_out[kind]} left out" if self._left_out[kind] else ""
            print(f"{kind}: {self._all[kind]}, of which {self._new[kind]} new{left_out}")  # noqa: T201 - the output
        if self._renamed:
            print(f"{len(self._renamed)} accounts were there by their e-mail; what is theirs went to them.")  # noqa: T201
        for user_id, reason in list(self._failures.items())[:_MAX_NAMED_FAILURES]:
            print(f"account {user_id}: {reason}")  # noqa: T201 - as above
        if self._left_out.total():
            print("Mend what is said above, and run the import again: it goes on with what is missing.")  # noqa: T201
        return 1 if self._left_out.total() else 0
