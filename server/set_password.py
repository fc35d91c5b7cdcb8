"""The command `set-password`: for users who forgot theirs, where no e-mail is sent."""

import getpass
import sys

from server.auth.emails import normalise_email
from server.auth.passwords import Passwords, require_acceptable
from server.boot import database_of, prepare_database
from server.errors import Invalid
from server.refusal import CannotStart
from server.serve import open_shared_database
from server.settings import Settings
from server.storage.queries import load_queries, sql_directory

_MAX_LINE = 4096


async def run_set_password(settings: Settings, email: str) -> int:
    """Exit code 0: done, and all sessions of the account are over; 1: nothing was changed, and why is on stderr.

    Works beside a running server, and without one.
    """
    if settings.supabase_url:
        raise CannotStart("The accounts are in Supabase: set the password in the project's dashboard.")
    try:
        address = normalise_email(email)
        password = _read_password()
        require_acceptable(password)
    except Invalid as problem:
        return _fail(problem.detail)
    passwords = Passwords()
    try:
        hashed = await passwords.hash(password)
    finally:
        passwords.close()
    if not await _store(settings, address, hashed):
        return _fail(f"There is no account with the address {address}.")
    print(f"{address} has a new password; its sessions have ended.")  # noqa: T201 - the command's output
    return 0


async def _store(settings: Settings, address: str, hashed: str) -> bool:
    queries = load_queries(sql_directory() / "queries")
    async with open_shared_database(settings) as url:
        database = database_of(settings, url)
        await prepare_database(settings, database, directory=sql_directory() / "migrations", queries=queries)
        connection = await database.connect()
        try:
            return await connection.fetchrow(queries["set_password"], address, hashed) is not None
        finally:
            connection.terminate()


def _read_password() -> str:
    """Asked for twice at a terminal; one line where something is piped in."""
    if not sys.stdin.isatty():
        return sys.stdin.readline(_MAX_LINE).rstrip("\r\n")
    password = getpass.getpass("New password: ")
    if getpass.getpass("Once more: ") != password:
        raise Invalid("The two are not the same; nothing was changed.")
    return password


def _fail(reason: str) -> int:
    print(reason, file=sys.stderr)  # noqa: T201 - as above
    return 1
