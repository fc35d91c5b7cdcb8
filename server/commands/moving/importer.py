"""The command `import`: loads an archive of `export` into the configured database, accounts and file store."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from server.commands.maintenance import open_prepared
from server.commands.moving.account_creators import Account, AccountCreator, account_creator, address_of
from server.commands.moving.archive import ArchiveReader, Member
from server.errors import CannotStart
from server.settings import Settings
from server.storage.objects import Objects, create_objects, parse_key
from server.storage.queries import statements

_STATEMENT_TIMEOUT_S = 120.0
_MAX_NAMED_FAILURES = 20
_FIRST = frozenset({"users", "file_rows", "files"})
"""Imported before the requests: a running server may start a request as soon as its row exists."""


async def run_import(settings: Settings, path: Path) -> int:
    """Exit code 0: everything is imported. 1: everything except the items that were printed.

    The archive is verified before anything is written. Existing rows are not changed, so an import that was interrupted
    or ended with 1 can be run again.
    """
    reader = ArchiveReader(path, "export")
    manifest = await reader.check()
    async with open_prepared(settings) as connection:
        objects = create_objects(settings)
        accounts = account_creator(settings, connection)
        try:
            run = Import(connection, accounts, objects, exported_at=manifest.created_at)
            for is_first_pass in (True, False):
                async for member in reader.members():
                    if (member.name.partition("/")[0] in _FIRST) is is_first_pass:
                        await run.add(member)
        finally:
            await accounts.close()
            await objects.close()
    return run.report()


class Import:
    """One import of one archive."""

    def __init__(
        self,
        connection: "asyncpg.Connection[Any]",
        accounts: AccountCreator,
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

    async def add(self, member: Member) -> None:
        """Import one member. Raises `CannotStart` for an unknown name."""
        match member.name.split("/"):
            case ["users", _]:
                await self._add_users(orjson.loads(await member.read()))
            case ["requests", _]:
                await self._add_requests(await member.read())
            case ["idempotency_keys", _]:
                await self._send("import_idempotency_keys", await member.read(), *self._renamed_ids())
            case ["api_keys", _]:
                await self._send("import_api_keys", await member.read(), *self._renamed_ids())
            case ["usage", _]:
                await self._send("import_usage", await member.read(), *self._renamed_ids())
            case ["file_rows", _]:
                await self._send("import_file_rows", await member.read(), *self._renamed_ids())
            case ["file_uses", _]:
                await self._send("import_file_uses", await member.read())
            case ["files", user_id, name]:
                await self._add_file(member, user_id, name)
            case _:
                raise CannotStart(f"The archive holds {member.name!r}, which this version does not know.")

    async def _add_users(self, users: list[Account]) -> None:
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

    async def _add_requests(self, page: bytes) -> None:
        ids = [UUID(row["id"]) for row in orjson.loads(page)]
        made = await self._send("import_requests", page, *self._renamed_ids(), self._age)
        self._all["requests"] += len(ids)
        self._new["requests"] += len(made)
        if len(made) < len(ids):
            [[there]] = await self._send("count_imported_requests", ids)
            self._left_out["requests"] += len(ids) - there

    async def _add_file(self, member: Member, user_id: str, name: str) -> None:
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

    def _renamed_ids(self) -> tuple[list[UUID], list[UUID]]:
        """Old and new ids of accounts that have another id in this database."""
        return list(self._renamed.keys()), list(self._renamed.values())

    def report(self) -> int:
        """Print a summary. Returns the exit code."""
        for kind in ("users", "requests", "files"):
            left_out = f", {self._left_out[kind]} left out" if self._left_out[kind] else ""
            print(f"{kind}: {self._all[kind]}, of which {self._new[kind]} new{left_out}")  # noqa: T201 - the output
        if self._renamed:
            print(f"{len(self._renamed)} accounts existed with the same e-mail; they got the imported data.")  # noqa: T201
        for user_id, reason in list(self._failures.items())[:_MAX_NAMED_FAILURES]:
            print(f"account {user_id}: {reason}")  # noqa: T201 - as above
        if self._left_out.total():
            print("Fix the errors above and run the import again: it adds only what is missing.")  # noqa: T201
        return 1 if self._left_out.total() else 0
