"""Parses what `users` was asked for, does it, and prints the result."""

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
from server.commands.users.administration import (
    Administration,
    EmbeddedAdministration,
    SupabaseAdministration,
)
from server.errors import CheckFailed, Invalid
from server.settings import Settings
from server.storage.queries import statements


class _NotDone(Exception):
    """The command changed nothing. The text is one line with the reason."""


async def run_users(settings: Settings, options: argparse.Namespace) -> int:
    """Exit code 0: done. 1: nothing was changed; stderr gives the reason."""
    try:
        async with open_prepared(settings) as connection, _administration(settings, connection) as administration:
            if options.action == "list":
                rows = [dict(row) for row in await connection.fetch(statements()["list_users"], options.limit)]
                (print_json if options.json else print_table)(rows)
            elif options.action == "invite":
                _print(await administration.invite(normalise_email(options.email)), options)
            else:
                account = await _find(connection, options.email)
                await _act(options, connection, administration, account)
    except Invalid as problem:
        return _fail(problem.detail)
    except (_NotDone, CheckFailed) as error:
        return _fail(str(error))
    return 0


async def _act(
    options: argparse.Namespace,
    connection: "asyncpg.Connection[Any]",
    administration: Administration,
    account: dict[str, Any],
) -> None:
    match options.action:
        case "suspend":
            await administration.suspend(account["id"])
        case "restore":
            await administration.restore(account["id"])
        case "delete":
            _confirm(account, options)
            await administration.delete(account["id"])
            return _print({"id": account["id"], "email": account["email"], "status": "deleted"}, options)
    account = await _find(connection, str(account["id"]))
    belongings = await connection.fetchrow(statements()["count_belongings"], account["id"])
    _print(account | dict(belongings or {}), options)
    return None


async def _find(connection: "asyncpg.Connection[Any]", text: str) -> dict[str, Any]:
    emails, user_id = [text.strip().lower()], None
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
    print(f"Delete {account['email']} with all its requests and files? This cannot be undone. ", end="", flush=True)  # noqa: T201 - a question
    if input("Type the address: ").strip().lower() != account["email"]:
        raise _NotDone("Nothing was deleted.")


@contextlib.asynccontextmanager
async def _administration(settings: Settings, connection: "asyncpg.Connection[Any]") -> AsyncIterator[Administration]:
    if settings.supabase_url is None:
        yield EmbeddedAdministration(connection, public_url=settings.public_url)
        return
    async with SupabaseAdmin.connect(settings) as admin:
        yield SupabaseAdministration(connection, admin)


def _print(record: dict[str, Any], options: argparse.Namespace) -> None:
    (print_json if options.json else print_record)(record)


def _fail(reason: str) -> int:
    print(reason, file=sys.stderr)  # noqa: T201 - for a person
    return 1
