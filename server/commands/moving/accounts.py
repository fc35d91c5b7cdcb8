"""Where imported accounts go: into the table of our own, or through the admin interface of Supabase Auth."""

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
from server.auth.supabase.project import connect, project_keys
from server.auth.supabase.project_keys import Credentials
from server.auth.supabase.refusals import read_refusal
from server.encoding import dumps
from server.errors import CannotStart, Invalid
from server.settings import Settings
from server.storage.queries import statements

Account = dict[str, Any]
"""As `export_users` writes it, with an `email` that was normalised."""

CALLS_AT_ONCE = 8
TRIES = 6
_MAX_PAUSE_S = 30.0
_STATEMENT_TIMEOUT_S = 60.0
_KNOWN_HASHES = ("$argon2", "$2a$", "$2b$", "$2y$")


class Accounts(Protocol):
    """Takes accounts that are not there yet, ids and passwords included."""

    async def create(self, accounts: Sequence[Account]) -> Mapping[UUID, str]:
        """Why which of them could not be made; empty where all could."""
        ...

    async def close(self) -> None: ...


def accounts_of(settings: Settings, connection: "asyncpg.Connection[Any]") -> "OwnAccounts | SupabaseAdmin":
    """Raises `CannotStart` where the project's accounts cannot be made for want of a key."""
    if not settings.supabase_url:
        return OwnAccounts(connection)
    credentials = project_keys(settings).for_admin()
    if credentials is None:
        raise CannotStart("Accounts of the project are made with SUPABASE_SERVICE_ROLE_KEY: set it for the import.")
    return SupabaseAdmin(connect(settings), credentials)


def address_of(account: Account) -> str:
    """Its e-mail as this server writes it; for one without (a telephone, say) a name that no mail can reach."""
    email = account["email"]
    if not email:
        return f"{account['id']}@no-email.invalid"
    try:
        return normalise_email(email)
    except Invalid:
        return str(email).lower()


class OwnAccounts:
    """The table of our own. A password whose hash is not known here cannot be used: `set-password` gives another."""

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
        """The connection belongs to who opened it."""


class SupabaseAdmin:
    """`POST /auth/v1/admin/users`, with `id` and `password_hash` (argon2 or bcrypt; supabase/auth, admin.go)."""

    def __init__(
        self,
        gotrue: GoTrue,
        credentials: Credentials,
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
        """Why it could not be made, or None."""
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
            refusal = read_refusal(answer.status, answer.body)
            reason = refusal.text or f"status {answer.status}"
            if answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
                raise CannotStart("The project refuses SUPABASE_SERVICE_ROLE_KEY: copy it again from its settings.")
            if answer.status != HTTPStatus.TOO_MANY_REQUESTS and answer.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                return reason
        return reason


def _new_user(account: Account) -> dict[str, Any]:
    """A body for the admin interface. Without a hash, nobody knows the password that the project makes up."""
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
