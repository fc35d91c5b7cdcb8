"""Changes of accounts by operators: in the server's own tables, or in Supabase Auth."""

from typing import Any, Protocol
from urllib.parse import urlencode
from uuid import UUID

import asyncpg

from server.auth.invites import INVITE_DAYS, hash_code, new_code
from server.auth.supabase import SupabaseAdmin
from server.auth.tokens import LEEWAY_S, MAX_PROJECT_LIFETIME_S
from server.commands.maintenance import announce_revocation
from server.errors import CheckFailed
from server.storage.queries import statements

_HISTORY_BATCH = 2000
_CENTURY_S = 100 * 365.25 * 86_400


class Administration(Protocol):
    """The id is that of an existing account. Raises `CheckFailed`."""

    async def invite(self, email: str) -> dict[str, Any]:
        """Let a person with this address sign up. Returns what the operator has to pass on."""
        ...

    async def suspend(self, user_id: UUID) -> None: ...

    async def restore(self, user_id: UUID) -> None: ...

    async def delete(self, user_id: UUID) -> None:
        """Delete the account with its requests and files. Instances stop its running requests within 5 s."""
        ...


class _OnDatabase:
    """Statements on the database, and the hint to running instances after them."""

    def __init__(self, connection: "asyncpg.Connection[Any]") -> None:
        self._connection = connection

    async def _run(self, query: str, *args: Any) -> list[asyncpg.Record]:
        return await self._connection.fetch(statements()[query], *args)

    async def _revoke(self, query: str, *args: Any) -> None:
        await self._run(query, *args)
        await announce_revocation(self._connection)

    async def _delete_history(self, user_id: UUID) -> None:
        """In short statements, as `DELETE /auth/user` does."""
        while len(await self._run("delete_history", user_id, _HISTORY_BATCH)) == _HISTORY_BATCH:
            pass


class EmbeddedAdministration(_OnDatabase):
    def __init__(self, connection: "asyncpg.Connection[Any]", *, public_url: str | None) -> None:
        super().__init__(connection)
        self._public_url = public_url

    async def invite(self, email: str) -> dict[str, Any]:
        """A code, because this server sends no e-mail. A second invite of an address replaces the first."""
        code = new_code()
        rows = await self._run("create_invite", email, hash_code(code), INVITE_DAYS * 86_400.0)
        if not rows:
            raise CheckFailed(f"There is an account with the address {email} already.")
        link = (
            {}
            if self._public_url is None
            else {"link": f"{self._public_url}/#{urlencode({'invite': code, 'email': email})}"}
        )
        return {"email": email, "code": code, **link, "expires_at": rows[0]["expires_at"]}

    async def suspend(self, user_id: UUID) -> None:
        await self._revoke("suspend_user", user_id)

    async def restore(self, user_id: UUID) -> None:
        await self._revoke("restore_user", user_id)

    async def delete(self, user_id: UUID) -> None:
        await self._delete_history(user_id)
        await self._revoke("delete_user", user_id)
        await self._run("discard_files_of_user", user_id)


class SupabaseAdministration(_OnDatabase):
    """A suspension is a ban in Supabase Auth, and a row of ours, because issued tokens stay valid there."""

    def __init__(self, connection: "asyncpg.Connection[Any]", admin: SupabaseAdmin) -> None:
        super().__init__(connection)
        self._admin = admin

    async def invite(self, email: str) -> dict[str, Any]:
        """The project sends an e-mail with a link."""
        await self._admin.invite(email)
        return {"email": email, "invited_by": "an e-mail from Supabase Auth"}

    async def suspend(self, user_id: UUID) -> None:
        await self._revoke("block_subject", user_id, _CENTURY_S)
        await self._admin.ban(user_id)

    async def restore(self, user_id: UUID) -> None:
        await self._admin.unban(user_id)
        await self._revoke("release_subject", user_id)

    async def delete(self, user_id: UUID) -> None:
        await self._delete_history(user_id)
        await self._admin.delete(user_id)
        await self._revoke("block_subject", user_id, float(MAX_PROJECT_LIFETIME_S + LEEWAY_S))
        await self._run("discard_files_of_user", user_id)
