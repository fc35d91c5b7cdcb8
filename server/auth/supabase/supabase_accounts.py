"""Accounts in a Supabase project: forwards every call to Supabase Auth, and translates its answers."""

import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import structlog

from server.auth.accounts import ANONYMOUS, CHECK_YOUR_EMAIL, Caller, Session, SignedUp, User
from server.auth.emails import normalise_email
from server.auth.passwords import normalise_password
from server.auth.principal import Principal
from server.auth.supabase.answers import UnexpectedAnswer, read_object, read_session, read_user
from server.auth.supabase.client import AuthResponse, GoTrue, NoAnswer
from server.auth.supabase.error_mapping import MappedError, Operation, map_error, misconfigured, unavailable
from server.auth.supabase.error_response import ErrorResponse, read_error_response
from server.auth.supabase.project_keys import CallCredentials, ProjectKeys
from server.errors import Forbidden, Invalid, Problem, Unauthenticated

QUIET_S = 60.0
"""Least time between two log lines about the same fault."""
_RECOVERY = "If there is an account with this address, an e-mail with a link to set a new password is on its way."
_IS_DONE = frozenset({"session_not_found", "session_expired", "user_not_found"})

log = structlog.get_logger(__name__)

Revoke = Callable[[UUID], Awaitable[None]]
"""Voids the access tokens of a user or of a session, which Supabase Auth lets expire."""


class _CallRejected(Exception):
    """Supabase Auth answered with an error, to a call with the key of the setting `key_name`."""

    def __init__(self, response: ErrorResponse, *, key_name: str, retry_after: str) -> None:
        super().__init__(response.code)
        self.response = response
        self.key_name = key_name
        self.retry_after = retry_after


class SupabaseAccounts:
    """Implements `Accounts`. Faults that the operator can fix are logged, each at most once a minute."""

    def __init__(
        self,
        gotrue: GoTrue,
        keys: ProjectKeys,
        *,
        revoke: Revoke,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gotrue = gotrue
        self._keys = keys
        self._revoke = revoke
        self._wall_clock = wall_clock
        self._clock = clock
        self._logged: dict[tuple[object, ...], float] = {}

    async def close(self) -> None:
        await self._gotrue.close()

    async def sign_up(
        self,
        email: str,
        password: str,
        caller: Caller = ANONYMOUS,
        /,
        *,
        invite: str | None = None,  # noqa: ARG002 - the project's own setting and mails decide
    ) -> SignedUp:
        """Without a session, the returned user is not used: Supabase invents one for an address that has an account."""
        body = {"email": normalise_email(email), "password": normalise_password(password)}
        data = await self._ask(Operation.SIGN_UP, "/signup", self._keys.for_stranger(caller.address), body=body)
        if "access_token" in data:
            return SignedUp(body["email"], "Account created.", self._read_session(data))
        self._read_user(data)
        return SignedUp(body["email"], CHECK_YOUR_EMAIL)

    async def sign_in(self, email: str, password: str, caller: Caller = ANONYMOUS, /) -> Session:
        """The password is tried in NFC, then as it was sent: other clients of the project may have set it so."""
        body = {"email": _address(email), "password": normalise_password(password)}
        try:
            return await self._request_session(Operation.SIGN_IN, "password", body, caller)
        except Unauthenticated:
            if body["password"] == password:
                raise
        return await self._request_session(Operation.SIGN_IN, "password", body | {"password": password}, caller)

    async def refresh(self, refresh_token: str, caller: Caller = ANONYMOUS, /) -> Session:
        return await self._request_session(Operation.REFRESH, "refresh_token", {"refresh_token": refresh_token}, caller)

    async def sign_out(self, principal: Principal, caller: Caller = ANONYMOUS, /) -> None:
        """End this session. A session that has ended already is no error."""
        try:
            await self._send(Operation.USER, "POST", "/logout?scope=local", self._keys.for_user(caller.token))
        except _CallRejected as error:
            if error.response.code not in _IS_DONE:
                raise self._problem(error, Operation.USER) from error
        if principal.session_id is not None:
            await self._revoke(principal.session_id)

    async def get_user(self, _principal: Principal, caller: Caller = ANONYMOUS, /) -> User:
        data = await self._ask(Operation.USER, "/user", self._keys.for_user(caller.token), method="GET")
        return self._read_user(data)

    def require_deletion(self) -> None:
        self._admin()

    def _admin(self) -> CallCredentials:
        credentials = self._keys.for_admin()
        if credentials is None:
            raise Forbidden("This server cannot delete accounts: ask its operator to do it.")
        return credentials

    async def delete_user(self, principal: Principal, _caller: Caller = ANONYMOUS, /) -> None:
        """Delete the user; foreign keys delete the rows. Raises `Forbidden` without a service key."""
        credentials = self._admin()
        try:
            await self._send(Operation.DELETE, "DELETE", f"/admin/users/{principal.user_id}", credentials)
        except _CallRejected as error:
            raise self._problem(error, Operation.DELETE) from error
        await self._revoke(principal.user_id)

    async def request_recovery(self, email: str, caller: Caller = ANONYMOUS, /) -> str:
        credentials = self._keys.for_stranger(caller.address)
        try:
            await self._send(Operation.RECOVER, "POST", "/recover", credentials, body={"email": normalise_email(email)})
        except _CallRejected as error:
            if not _was_sent_already(error.response):
                raise self._problem(error, Operation.RECOVER) from error
        return _RECOVERY

    async def _request_session(self, operation: Operation, grant: str, body: dict[str, str], caller: Caller) -> Session:
        credentials = self._keys.for_stranger(caller.address)
        return self._read_session(await self._ask(operation, f"/token?grant_type={grant}", credentials, body=body))

    async def _ask(
        self, operation: Operation, path: str, credentials: CallCredentials, *, method: str = "POST", body: Any = None
    ) -> dict[str, Any]:
        """The JSON object of the answer. Raises a `Problem`."""
        try:
            return read_object((await self._send(operation, method, path, credentials, body=body)).body)
        except _CallRejected as error:
            raise self._problem(error, operation) from error
        except UnexpectedAnswer:
            raise self._report(misconfigured(), operation) from None

    async def _send(
        self, operation: Operation, method: str, path: str, credentials: CallCredentials, *, body: Any = None
    ) -> AuthResponse:
        """A successful answer. Raises `_CallRejected` for an error answer, and a `Problem` without any answer."""
        try:
            answer = await self._gotrue.call(method, path, credentials, body=body)
        except NoAnswer as error:
            fix = (
                f"No answer from Supabase Auth: {error.reason}. Check SUPABASE_URL, and whether the project is paused."
            )
            raise self._report(unavailable(fix), operation) from error
        if answer.is_success:
            return answer
        raise _CallRejected(
            read_error_response(answer.status, answer.body),
            key_name=credentials.key_name,
            retry_after=answer.headers.get("retry-after", ""),
        )

    def _read_session(self, data: dict[str, Any]) -> Session:
        try:
            return read_session(data, now=self._wall_clock())
        except UnexpectedAnswer:
            raise self._report(misconfigured(), Operation.SIGN_IN) from None

    def _read_user(self, data: dict[str, Any]) -> User:
        try:
            return read_user(data)
        except UnexpectedAnswer:
            raise self._report(misconfigured(), Operation.USER) from None

    def _problem(self, error: _CallRejected, operation: Operation) -> Problem:
        mapped = map_error(error.response, operation, key_name=error.key_name, retry_after=error.retry_after)
        return self._report(mapped, operation, error.response)

    def _report(self, mapped: MappedError, operation: Operation, response: ErrorResponse | None = None) -> Problem:
        """The problem for the caller. The part for the operator goes to the log."""
        known = {} if response is None else {"status": response.status, "supabase_code": response.code}
        key = (mapped.event, *known.values())
        if mapped.event and self._clock() >= self._logged.get(key, float("-inf")) + QUIET_S:
            self._logged = {k: at for k, at in self._logged.items() if self._clock() < at + QUIET_S}
            self._logged[key] = self._clock()
            error_id = {"error_id": response.error_id} if response is not None and response.error_id else {}
            log.error(mapped.event, step=str(operation), fix=mapped.fix, **known, **error_id)
        return mapped.problem


def _address(email: str) -> str:
    """The normalised address. An invalid one is sent unchanged, and Supabase decides."""
    try:
        return normalise_email(email)
    except Invalid:
        return email


def _was_sent_already(response: ErrorResponse) -> bool:
    """Whether an e-mail was sent a moment ago. Only existing accounts get this error, so it is not passed on."""
    return response.code == "over_email_send_rate_limit" and "for security purposes" in response.text.lower()
