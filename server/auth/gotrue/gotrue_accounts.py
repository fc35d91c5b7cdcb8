"""The operations of Supabase Auth on the embedded accounts, with its answers and errors."""

import contextlib
from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid5

import asyncpg
import orjson

from server.auth.accounts import Session
from server.auth.emails import normalise_email
from server.auth.embedded_accounts import EmbeddedAccounts, fingerprint
from server.auth.gotrue.error_form import GoTrueError
from server.auth.passwords import (
    MAX_PASSWORD_LENGTH,
    MIN_PASSWORD_LENGTH,
    Passwords,
    normalise_password,
    require_acceptable,
    why_guessable,
)
from server.auth.principal import Principal
from server.auth.revocations import Revocations
from server.encoding import dumps
from server.errors import Conflict, Forbidden, Invalid, Unauthenticated
from server.storage.reader import PooledQueries

MAX_METADATA_BYTES = 2048
"""The metadata is part of every access token, and so of every request."""
SCOPES = frozenset({"global", "local", "others"})
Json = dict[str, Any]


class GoTrueAccounts:
    """Every method raises `GoTrueError` for a fault of the client, and a `Problem` for any other."""

    def __init__(
        self, accounts: EmbeddedAccounts, reader: PooledQueries, *, passwords: Passwords, revocations: Revocations
    ) -> None:
        self._accounts = accounts
        self._reader = reader
        self._passwords = passwords
        self._revocations = revocations

    async def sign_up(self, form: Mapping[str, Any]) -> Json:
        """Returns a session at once: this server sends no e-mail, so there is no confirmation.

        The code of an invite is `data.invite`, the only place where clients of Supabase Auth can put it.
        """
        email, password = _credentials(form)
        if not password:
            raise GoTrueError(400, "validation_failed", "Signup requires a valid password")
        _require_strong(password, email.strip().lower())
        address = _require_address(email)
        metadata = _metadata(form.get("data"))
        invite = metadata.pop("invite", None)
        try:
            signed_up = await self._accounts.sign_up(
                address, password, invite=invite if isinstance(invite, str) else None, metadata=metadata
            )
        except Conflict:
            raise GoTrueError(422, "user_already_exists", "User already registered") from None
        except Forbidden as problem:
            raise GoTrueError(422, "signup_disabled", problem.detail) from None
        if signed_up.session is None:
            raise RuntimeError("a sign-up without a session")
        return await self._session(signed_up.session)

    async def sign_in(self, form: Mapping[str, Any]) -> Json:
        email, password = _credentials(form)
        try:
            return await self._session(await self._accounts.sign_in(email, password))
        except Unauthenticated:
            raise GoTrueError(400, "invalid_credentials", "Invalid login credentials") from None
        except Forbidden:
            raise _banned() from None

    async def refresh(self, form: Mapping[str, Any]) -> Json:
        """Each token works once. A second use after `REUSE_INTERVAL_S` ends the session."""
        token = form.get("refresh_token")
        if not isinstance(token, str) or not token:
            raise GoTrueError(400, "validation_failed", "Refresh token is not valid")
        known = await self._reader.fetch_row("find_refresh_token", fingerprint(token))
        try:
            return await self._session(await self._accounts.refresh(token))
        except Forbidden:
            raise _banned() from None
        except Unauthenticated:
            if known is not None and known["revoked"]:
                words = "Invalid Refresh Token: Already Used"
                raise GoTrueError(400, "refresh_token_already_used", words) from None
            words = "Invalid Refresh Token: Refresh Token Not Found"
            raise GoTrueError(400, "refresh_token_not_found", words) from None

    async def get_user(self, principal: Principal) -> Json:
        return _user(await self._account(principal))

    async def update_user(self, principal: Principal, form: Mapping[str, Any]) -> Json:
        """Change e-mail address, password and metadata (merged; null removes a key). A new password ends all other
        sessions.
        """
        account = await self._account(principal)
        if form.get("phone"):
            raise _no_phone()
        email = _require_address(form["email"]) if form.get("email") else None
        hashed = await self._new_password(form, account["encrypted_password"], email or account["email"])
        metadata = None if form.get("data") is None else dumps(_merged(account["raw_user_meta_data"], form["data"]))
        try:
            await self._reader.fetch("update_account", principal.user_id, email, hashed, metadata, principal.session_id)
        except asyncpg.UniqueViolationError:
            words = "A user with this email address has already been registered"
            raise GoTrueError(422, "email_exists", words) from None
        if hashed is not None:
            await self._revocations.publish()
        return await self.get_user(principal)

    async def sign_out(self, principal: Principal, scope: str) -> None:
        await self._account(principal)
        if scope not in SCOPES:
            raise GoTrueError(400, "validation_failed", f'Unsupported logout scope "{scope[:32]}"')
        await self._reader.fetch("close_sessions", principal.user_id, principal.session_id, scope)
        await self._revocations.publish()

    async def _account(self, principal: Principal) -> asyncpg.Record:
        account = await self._reader.fetch_row("get_account", principal.user_id, principal.session_id)
        if account is None:
            raise GoTrueError(403, "user_not_found", "User from sub claim in JWT does not exist")
        if not account["has_session"]:
            words = "Session from session_id claim in JWT does not exist"
            raise GoTrueError(403, "session_not_found", words)
        return account

    async def _new_password(self, form: Mapping[str, Any], stored: str, email: str) -> str | None:
        password, current = form.get("password"), form.get("current_password")
        if not isinstance(password, str) or not password:
            return None
        _require_strong(password, email)
        if isinstance(current, str) and not await self._passwords.matches(stored, current):
            raise GoTrueError(400, "current_password_invalid", "Current password is invalid")
        if await self._passwords.matches(stored, password):
            words = "New password should be different from the old password."
            raise GoTrueError(422, "same_password", words)
        return await self._passwords.hash(password)

    async def _session(self, session: Session) -> Json:
        account = await self._reader.fetch_row("get_account", session.user.id, None)
        if account is None:  # deleted meanwhile
            raise GoTrueError(403, "user_not_found", "User from sub claim in JWT does not exist")
        return {
            "access_token": session.access_token,
            "token_type": "bearer",
            "expires_in": session.expires_in,
            "expires_at": session.expires_at,
            "refresh_token": session.refresh_token,
            "user": _user(account),
        }


def _credentials(form: Mapping[str, Any]) -> tuple[str, str]:
    email, phone, password = form.get("email"), form.get("phone"), form.get("password")
    if email and phone:
        words = "Only an email address or phone number should be provided on signup."
        raise GoTrueError(400, "validation_failed", words)
    if phone:
        raise _no_phone()
    if not email:
        raise GoTrueError(422, "anonymous_provider_disabled", "Anonymous sign-ins are disabled")
    return str(email), password if isinstance(password, str) else ""


def _banned() -> GoTrueError:
    return GoTrueError(400, "user_banned", "User is banned")


def _no_phone() -> GoTrueError:
    return GoTrueError(400, "phone_provider_disabled", "Phone signups are disabled")


def _require_address(email: object) -> str:
    with contextlib.suppress(Invalid):
        return normalise_email(str(email))
    raise GoTrueError(400, "validation_failed", "Unable to validate email address: invalid format")


def _require_strong(password: str, email: str) -> None:
    normal = normalise_password(password)
    if len(normal) < MIN_PASSWORD_LENGTH:
        words = f"Password should be at least {MIN_PASSWORD_LENGTH} characters."
        raise GoTrueError(422, "weak_password", words, reasons=("length",))
    if why_guessable(normal, email) is not None:
        words = "Password is known to be weak and easy to guess, please choose a different one."
        raise GoTrueError(422, "weak_password", words, reasons=("pwned",))
    try:
        require_acceptable(password, email)
    except Invalid:
        words = f"Password cannot be longer than {MAX_PASSWORD_LENGTH} characters, nor contain invalid characters"
        raise GoTrueError(400, "validation_failed", words) from None


def _merged(stored: bytes, data: object) -> Json:
    """The stored metadata with the changes. null removes a key."""
    both = orjson.loads(stored) | _metadata(data)
    return _metadata({name: value for name, value in both.items() if value is not None})


def _metadata(data: object) -> Json:
    if data is None:
        return {}
    if not isinstance(data, dict) or len(dumps(data)) > MAX_METADATA_BYTES:
        words = f"data must be an object of at most {MAX_METADATA_BYTES} bytes"
        raise GoTrueError(400, "validation_failed", words)
    return data


def _user(account: asyncpg.Record) -> Json:
    """A user in GoTrue's form and field order. Unset timestamps are left out."""
    user_id: UUID = account["id"]
    about = {"email": account["email"], "email_verified": True, "phone_verified": False, "sub": user_id}
    times = {name: account[name] for name in ("created_at", "updated_at")}
    seen = {} if account["last_sign_in_at"] is None else {"last_sign_in_at": account["last_sign_in_at"]}
    return {
        "id": user_id,
        "aud": "authenticated",
        "role": "authenticated",
        "email": account["email"],
        "email_confirmed_at": account["email_confirmed_at"],
        "phone": "",
        "confirmed_at": account["email_confirmed_at"],
        **seen,
        "app_metadata": orjson.loads(account["raw_app_meta_data"]),
        "user_metadata": about | orjson.loads(account["raw_user_meta_data"]),
        "identities": [
            {
                "identity_id": uuid5(user_id, "email"),
                "id": user_id,
                "user_id": user_id,
                "identity_data": about,
                "provider": "email",
                **seen,
                **times,
                "email": account["email"],
            }
        ],
        **times,
        "is_anonymous": False,
    }
