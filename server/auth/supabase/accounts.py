"""Accounts in a Supabase project: every call goes on to its Auth, and its answers become ours."""

import time
from collections.abc import Callable
from typing import Any

import structlog

from server.auth.accounts import CHECK_YOUR_EMAIL, NOBODY, Caller, Session, SignedUp, User
from server.auth.emails import normalise_email
from server.auth.principal import Principal
from server.auth.supabase.answers import Unintelligible, read_object, read_session, read_user
from server.auth.supabase.client import Answer, GoTrue, NoAnswer
from server.auth.supabase.project_keys import Credentials, ProjectKeys
from server.auth.supabase.refusals import Refusal, read_refusal
from server.auth.supabase.verdicts import Step, Verdict, away, judge, misconfigured
from server.errors import Forbidden, Invalid, Problem

QUIET_S = 60.0
"""How long a fault that was logged is not logged again."""
_RECOVERY = "If there is an account with this address, an e-mail with a link to set a new password is on its way."
_IS_DONE = frozenset({"session_not_found", "session_expired", "user_not_found"})

log = structlog.get_logger(__name__)


class Refused(Exception):
    """Supabase Auth said no, in answer to a call that carried the key of `key_name`."""

    def __init__(self, refusal: Refusal, *, key_name: str, retry_after: str) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal
        self.key_name = key_name
        self.retry_after = retry_after


class SupabaseAccounts:
    """Implements `Accounts`. What the operator has to know is logged, each fault at most once a minute."""

    def __init__(
        self,
        gotrue: GoTrue,
        keys: ProjectKeys,
        *,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gotrue = gotrue
        self._keys = keys
        self._wall_clock = wall_clock
        self._clock = clock
        self._logged: dict[tuple[object, ...], float] = {}

    async def close(self) -> None:
        await self._gotrue.close()

    async def sign_up(self, email: str, password: str, caller: Caller = NOBODY, /) -> SignedUp:
        """A user without a session is not looked at: Supabase may have made it up for an address that is taken."""
        body = {"email": normalise_email(email), "password": password}
        data = await self._ask(Step.SIGN_UP, "/signup", self._keys.for_stranger(caller.address), body=body)
        if "access_token" in data:
            return SignedUp(body["email"], "Account created.", self._read_session(data))
        self._read_user(data)
        return SignedUp(body["email"], CHECK_YOUR_EMAIL)

    async def sign_in(self, email: str, password: str, caller: Caller = NOBODY, /) -> Session:
        return await self._trade(Step.SIGN_IN, "password", {"email": _address(email), "password": password}, caller)

    async def refresh(self, refresh_token: str, caller: Caller = NOBODY, /) -> Session:
        return await self._trade(Step.REFRESH, "refresh_token", {"refresh_token": refresh_token}, caller)

    async def sign_out(self, _principal: Principal, caller: Caller = NOBODY, /) -> None:
        """This session only. One that has ended already is signed out, too."""
        try:
            await self._send(Step.USER, "POST", "/logout?scope=local", self._keys.for_user(caller.token))
        except Refused as error:
            if error.refusal.code not in _IS_DONE:
                raise self._problem(error, Step.USER) from error

    async def get_user(self, _principal: Principal, caller: Caller = NOBODY, /) -> User:
        data = await self._ask(Step.USER, "/user", self._keys.for_user(caller.token), method="GET")
        return self._read_user(data)

    def require_deletion(self) -> None:
        """Needs the service key."""
        self._admin()

    def _admin(self) -> Credentials:
        credentials = self._keys.for_admin()
        if credentials is None:
            raise Forbidden("This server cannot delete accounts: ask its operator to do it.")
        return credentials

    async def delete_user(self, principal: Principal, _caller: Caller = NOBODY, /) -> None:
        """The user's rows go by foreign key. Raises `Forbidden` where there is no service key."""
        credentials = self._admin()
        try:
            await self._send(Step.DELETE, "DELETE", f"/admin/users/{principal.user_id}", credentials)
        except Refused as error:
            raise self._problem(error, Step.DELETE) from error

    async def request_recovery(self, email: str, caller: Caller = NOBODY, /) -> str:
        credentials = self._keys.for_stranger(caller.address)
        try:
            await self._send(Step.RECOVER, "POST", "/recover", credentials, body={"email": normalise_email(email)})
        except Refused as error:
            if not _was_sent_already(error.refusal):
                raise self._problem(error, Step.RECOVER) from error
        return _RECOVERY

    async def _trade(self, step: Step, grant: str, body: dict[str, str], caller: Caller) -> Session:
        credentials = self._keys.for_stranger(caller.address)
        return self._read_session(await self._ask(step, f"/token?grant_type={grant}", credentials, body=body))

    async def _ask(
        self, step: Step, path: str, credentials: Credentials, *, method: str = "POST", body: Any = None
    ) -> dict[str, Any]:
        """The object in the answer. Raises a `Problem`."""
        try:
            return read_object((await self._send(step, method, path, credentials, body=body)).body)
        except Refused as error:
            raise self._problem(error, step) from error
        except Unintelligible:
            raise self._report(misconfigured(), step) from None

    async def _send(self, step: Step, method: str, path: str, credentials: Credentials, *, body: Any = None) -> Answer:
        """A successful answer. Raises `Refused` for any other, and a `Problem` where there is none."""
        try:
            answer = await self._gotrue.call(method, path, credentials, body=body)
        except NoAnswer as error:
            verdict = away(
                f"No answer from Supabase Auth: {error.reason}. Is SUPABASE_URL right, is the project awake?"
            )
            raise self._report(verdict, step) from error
        if answer.is_success:
            return answer
        raise Refused(
            read_refusal(answer.status, answer.body),
            key_name=credentials.key_name,
            retry_after=answer.headers.get("retry-after", ""),
        )

    def _read_session(self, data: dict[str, Any]) -> Session:
        try:
            return read_session(data, now=self._wall_clock())
        except Unintelligible:
            raise self._report(misconfigured(), Step.SIGN_IN) from None

    def _read_user(self, data: dict[str, Any]) -> User:
        try:
            return read_user(data)
        except Unintelligible:
            raise self._report(misconfigured(), Step.USER) from None

    def _problem(self, error: Refused, step: Step) -> Problem:
        verdict = judge(error.refusal, step, key_name=error.key_name, retry_after=error.retry_after)
        return self._report(verdict, step, error.refusal)

    def _report(self, verdict: Verdict, step: Step, refusal: Refusal | None = None) -> Problem:
        """The problem for the caller; what the operator should know of it goes to the log."""
        known = {} if refusal is None else {"status": refusal.status, "supabase_code": refusal.code}
        key = (verdict.event, *known.values())
        if verdict.event and self._clock() >= self._logged.get(key, float("-inf")) + QUIET_S:
            self._logged = {k: at for k, at in self._logged.items() if self._clock() < at + QUIET_S}
            self._logged[key] = self._clock()
            error_id = {"error_id": refusal.error_id} if refusal is not None and refusal.error_id else {}
            log.error(verdict.event, step=str(step), fix=verdict.fix, **known, **error_id)
        return verdict.problem


def _address(email: str) -> str:
    """As the account was signed up; an address that we would not have taken is left to Supabase to judge."""
    try:
        return normalise_email(email)
    except Invalid:
        return email


def _was_sent_already(refusal: Refusal) -> bool:
    """An e-mail went out a moment ago. Only an account that exists is told so: to pass it on would tell of it."""
    return refusal.code == "over_email_send_rate_limit" and "for security purposes" in refusal.text.lower()
