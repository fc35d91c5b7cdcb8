"""The admin API of Supabase Auth, for an operator's commands."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Self
from uuid import UUID

from server.auth.supabase.client import AuthResponse, GoTrue, NoAnswer
from server.auth.supabase.error_mapping import Operation, map_error
from server.auth.supabase.error_response import read_error_response
from server.auth.supabase.project import auth_host, connect, project_keys
from server.auth.supabase.project_keys import SERVICE_KEY, CallCredentials
from server.errors import CannotStart, CheckFailed
from server.settings import Settings

_FOR_EVER = "876000h"
"""A hundred years, as in Supabase's own dashboard."""


class SupabaseAdmin:
    """Every method raises `CheckFailed`, with a sentence for the operator."""

    def __init__(self, gotrue: GoTrue, credentials: CallCredentials, *, host: str) -> None:
        self._gotrue = gotrue
        self._credentials = credentials
        self._host = host

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, settings: Settings) -> AsyncIterator[Self]:
        """Raises `CannotStart` without a service key."""
        credentials = project_keys(settings).for_admin()
        if credentials is None:
            raise CannotStart(f"The accounts are in Supabase, and {SERVICE_KEY} is not set: copy it from its settings.")
        gotrue = connect(settings)
        try:
            yield cls(gotrue, credentials, host=auth_host(settings))
        finally:
            await gotrue.close()

    async def invite(self, email: str) -> None:
        """The project sends the invite by e-mail."""
        await self._call("POST", "/invite", {"email": email})

    async def ban(self, user_id: UUID) -> None:
        await self._call("PUT", f"/admin/users/{user_id}", {"ban_duration": _FOR_EVER})

    async def unban(self, user_id: UUID) -> None:
        await self._call("PUT", f"/admin/users/{user_id}", {"ban_duration": "none"})

    async def delete(self, user_id: UUID) -> None:
        await self._call("DELETE", f"/admin/users/{user_id}")

    async def _call(self, method: str, path: str, body: Any = None) -> AuthResponse:
        try:
            answer = await self._gotrue.call(method, path, self._credentials, body=body)
        except NoAnswer as error:
            reason = f"No answer from Supabase Auth at {self._host}: {error.reason}. Check SUPABASE_URL."
            raise CheckFailed(reason) from error
        if answer.is_success:
            return answer
        response = read_error_response(answer.status, answer.body)
        mapped = map_error(response, Operation.DELETE, key_name=self._credentials.key_name)
        said = f"Supabase Auth answers {response.status}: {response.text or response.code or 'no reason'}"
        raise CheckFailed(mapped.fix or said)
