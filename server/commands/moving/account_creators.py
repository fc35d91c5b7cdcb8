"""Creates imported accounts: in the embedded accounts' table, or through the admin API of Supabase Auth."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Protocol
from uuid import UUID

import asyncpg

from server.auth.emails import normalise_email
from server.auth.supabase.client import GoTrue, NoAnswer
from server.auth.supabase.error_response import read_error_response
from server.auth.supabase.project import connect, project_keys
from server.auth.supabase.project_keys import CallCredentials
from server.encoding import dumps
from server.errors import CannotStart, Invalid
from server.settings import Settings
from server.storage.queries import statements

Account = dict[str, Any]
"""A row of `export_users`, with a normalised `email`."""

CALLS_AT_ONCE = 8
TRIES = 6
_MAX_PAUSE_S = 30.0
_STATEMENT_TIMEOUT_S = 60.0
_KNOWN_HASHES = ("$argon2", "$2a$", "$2b$", "$2y$")


class AccountCreator(Protocol):
    """Creates accounts that do not exist yet, with their ids and password hashes."""

    async def create(self, accounts: Sequence[Account]) -> Mapping[UUID, str]:
        """Returns the reason for each account that could not be created, by id."""
        ...

    async def close(self) -> None: ...


def account_creator(
    settings: Settings, connection: "asyncpg.Connection[Any]"
) -> "EmbeddedAccountCreator | SupabaseAccountCreator":
    """Chosen by the settings. Raises `CannotStart` if Supabase keeps the accounts and there is no service key."""
    if not settings.supabase_url:
        return EmbeddedAccountCreator(connection)
    credentials = project_keys(settings).for_admin()
    if credentials is None:
        raise CannotStart("The import creates accounts with SUPABASE_SERVICE_ROLE_KEY: set it.")
    return SupabaseAccountCreator(connect(settings), credentials)


def address_of(account: Account) -> str:
    """The normalised e-mail address; an invalid placeholder for an account without one (by telephone, say)."""
    email = account["email"]
    if not email:
        return f"{account['id']}@no-email.invalid"
    try:
        return normalise_email(email)
    except Invalid:
        return str(email).lower()


class EmbeddedAccountCreator:
    """Inserts into the embedded accounts. A hash of an unknown kind matches no password: use `set-password` then."""

    def __init__(self, connection: "asyncpg.Connection[Any]") -> None:
        self._connection = connection

    async def create(self, accounts: Sequence[Account]) -> Mapping[UUID, str]:
        rows = [account | {"password_hash": account["password_hash"] or ""} for account in accounts]
        made = await self._connection.fetch(statements()["import_users"], dumps(rows), timeout=_STATEMENT_TIMEOUT_S)
        ids = {row["id"] for row in made}
        return {
            UUID(account["id"]): "another account has this e-mail"
            for account in accounts
            if UUID(account["id"]) not in ids
        }

    async def close(self) -> None:
        """The caller owns the connection."""


class SupabaseAccountCreator:
    """`POST /auth/v1/admin/users`, with `id` and `password_hash` (argon2 or bcrypt; supabase/auth, admin.go)."""

    def __init__(
        self,
        gotrue: GoTrue,
        credentials: CallCredentials,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._gotrue = gotrue
        self._credentials = credentials
        self._sleep = sleep

    async def create(self, accounts: Sequence[Account]) -> Mapping[UUID, str]:
        waiting = iter(accounts)
        failures: dict[UUID, str] = {}

        async def work() -> None:
            for account in waiting:
                if reason := await self._create(account):
                    failures[UUID(account["id"])] = reason

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(CALLS_AT_ONCE):
                    group.create_task(work(), name="create-accounts")
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return failures

    async def close(self) -> None:
        await self._gotrue.close()

    async def _create(self, account: Account) -> str | None:
        """The reason why the account could not be created, or None."""
        reason = ""
        for attempt in range(TRIES):
            if attempt:
                await self._sleep(min(_MAX_PAUSE_S, 0.5 * 2**attempt) * random.uniform(0.5, 1))  # noqa: S311
            try:
                answer = await self._gotrue.call("POST", "/admin/users", self._credentials, body=_new_user(account))
            except NoAnswer as error:
                reason = error.reason
                continue
            if answer.is_success:
                return None
            error_response = read_error_response(answer.status, answer.body)
            reason = error_response.text or f"status {answer.status}"
            if answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
                raise CannotStart("The project rejects SUPABASE_SERVICE_ROLE_KEY: copy it again from its settings.")
            if answer.status != HTTPStatus.TOO_MANY_REQUESTS and answer.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                return reason
        return reason


def _new_user(account: Account) -> dict[str, Any]:
    """A body for the admin API. Without a hash, the project sets a random password."""
    body: dict[str, Any] = {
        "id": account["id"],
        "email": account["email"],
        "email_confirm": account["email_confirmed_at"] is not None,
        "user_metadata": account["metadata"] or {},
    }
    if str(account["password_hash"] or "").startswith(_KNOWN_HASHES):
        body["password_hash"] = account["password_hash"]
    if account["banned_until"] is not None:
        left = datetime.fromisoformat(account["banned_until"]) - datetime.now(UTC)
        if left.total_seconds() > 0:
            body["ban_duration"] = f"{left.total_seconds():.0f}s"
    return body
