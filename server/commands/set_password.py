"""The command `set-password`, for users who forgot their password: the embedded accounts send no e-mail."""

import getpass
import sys

from server.auth.emails import normalise_email
from server.auth.passwords import Passwords, require_acceptable
from server.commands.maintenance import announce_revocation, open_prepared
from server.errors import CannotStart, Invalid
from server.settings import Settings
from server.storage.queries import statements

_MAX_LINE = 4096


async def run_set_password(settings: Settings, email: str) -> int:
    """Exit code 0: done; the sessions and API keys of the account have ended. 1: nothing was changed; stderr says why.

    Works with or without a running server.
    """
    if settings.supabase_url:
        raise CannotStart("The accounts are in Supabase: set the password in the project's dashboard.")
    try:
        address = normalise_email(email)
        password = _read_password()
        require_acceptable(password, address)
    except Invalid as problem:
        return _fail(problem.detail)
    passwords = Passwords()
    try:
        hashed = await passwords.hash(password)
    finally:
        passwords.close()
    if not await _store(settings, address, hashed):
        return _fail(f"There is no account with the address {address}.")
    print(f"{address} has a new password; its sessions and API keys have ended.")  # noqa: T201 - the command's output
    return 0


async def _store(settings: Settings, address: str, hashed: str) -> bool:
    async with open_prepared(settings) as connection:
        is_known = await connection.fetchrow(statements()["set_password"], address, hashed) is not None
        await announce_revocation(connection)
    return is_known


def _read_password() -> str:
    """Read it twice from a terminal, or one line from a pipe."""
    if not sys.stdin.isatty():
        return sys.stdin.readline(_MAX_LINE).rstrip("\r\n")
    password = getpass.getpass("New password: ")
    if getpass.getpass("Repeat it: ") != password:
        raise Invalid("The passwords differ; nothing was changed.")
    return password


def _fail(reason: str) -> int:
    print(reason, file=sys.stderr)  # noqa: T201 - as above
    return 1
