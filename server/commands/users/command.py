"""The command `users`: does what it was asked for, and prints the result."""

import argparse
import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg

from server.auth.emails import normalise_email
from server.auth.supabase import SupabaseAdmin
from server.commands.maintenance import open_prepared
from server.commands.tables import print_json, print_record, print_table
from server.commands.users.administration import Administration, EmbeddedAdministration, SupabaseAdministration
from server.errors import CheckFailed, Invalid
from server.settings import Settings
from server.storage.queries import statements

_MAX_LINE = 4096


class _NotDone(Exception):
    """The command changed nothing. The text is one line with the reason."""


async def run_users(settings: Settings, options: argparse.Namespace) -> int:
    """Exit code 0: done. 1: nothing was changed; stderr gives the reason."""
    try:
        async with open_prepared(settings) as connection:
            if options.action == "list":
                rows = [dict(row) for row in await connection.fetch(statements()["list_users"], options.limit)]
                (print_json if options.json else print_table)(rows)
            else:
                record = await _act(settings, options, connection)
                (print_json if options.json else print_record)(record)
    except Invalid as problem:
        return _fail(problem.detail)
    except (_NotDone, CheckFailed) as error:
        return _fail(str(error))
    return 0


async def _act(
    settings: Settings, options: argparse.Namespace, connection: "asyncpg.Connection[Any]"
) -> dict[str, Any]:
    """The account afterwards, or the invite."""
    if options.action == "show":
        return await _describe(connection, await _find(connection, options.email))
    async with _administration(settings, connection) as administration:
        if options.action == "invite":
            return await administration.invite(normalise_email(options.email))
        account = await _find(connection, options.email)
        match options.action:
            case "suspend":
                await administration.suspend(account["id"])
            case "restore":
                await administration.restore(account["id"])
            case "delete":
                _confirm(account, options)
                await administration.delete(account["id"])
                return {"id": account["id"], "email": account["email"], "status": "deleted"}
    return await _describe(connection, await _find(connection, str(account["id"])))


async def _describe(connection: "asyncpg.Connection[Any]", account: dict[str, Any]) -> dict[str, Any]:
    [belongings] = await connection.fetch(statements()["count_belongings"], account["id"])
    return account | dict(belongings)


async def _find(connection: "asyncpg.Connection[Any]", text: str) -> dict[str, Any]:
    emails, user_id = [text.strip().lower()] if text.isprintable() else [], None
    with contextlib.suppress(Invalid):
        emails.append(normalise_email(text))
    with contextlib.suppress(ValueError):
        user_id = UUID(text)
    row = await connection.fetchrow(statements()["find_user"], user_id, emails)
    if row is None:
        raise _NotDone(f"There is no account {text!a}.")
    return dict(row)


def _confirm(account: dict[str, Any], options: argparse.Namespace) -> None:
    if options.yes:
        return
    if not sys.stdin.isatty():
        raise _NotDone("Nothing was deleted: there is no terminal to ask for confirmation, so add --yes.")
    question = f"Delete {account['email']} with all its requests and files? It cannot be undone. Type the address: "
    print(question, end="", file=sys.stderr, flush=True)  # noqa: T201 - for a person
    if sys.stdin.readline(_MAX_LINE).strip().lower() != account["email"]:
        raise _NotDone("Nothing was deleted.")


@contextlib.asynccontextmanager
async def _administration(settings: Settings, connection: "asyncpg.Connection[Any]") -> AsyncIterator[Administration]:
    if settings.supabase_url is None:
        yield EmbeddedAdministration(connection, public_url=settings.public_url)
        return
    async with SupabaseAdmin.connect(settings) as admin:
        yield SupabaseAdministration(connection, admin)


def _fail(reason: str) -> int:
    print(reason, file=sys.stderr)  # noqa: T201 - for a person
    return 1
