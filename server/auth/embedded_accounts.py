"""Accounts in the server's own tables, without Supabase Auth."""

import contextlib
import hashlib
import secrets
from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

import orjson

from server.auth.accounts import ANONYMOUS, SUSPENDED, Caller, Session, SignedUp, User
from server.auth.emails import normalise_email
from server.auth.invites import hash_code
from server.auth.passwords import Passwords, is_outdated, require_acceptable
from server.auth.principal import Principal
from server.auth.revocations import Revocations
from server.auth.tokens import TokenMinter
from server.encoding import dumps
from server.errors import Conflict, Forbidden, Invalid, Unauthenticated
from server.model_request import UserId
from server.settings import SignUps
from server.storage.reader import PooledQueries

REUSE_INTERVAL_S = 10.0
"""A used refresh token is accepted again for this long, because the first answer may have been lost."""
_REFRESH_TOKEN_BYTES = 32
_WRONG_CREDENTIALS = "Invalid e-mail or password."


class EmbeddedAccounts:
    """Implements `Accounts`. Passwords are hashed with argon2id, refresh tokens with SHA-256."""

    def __init__(
        self,
        reader: PooledQueries,
        *,
        passwords: Passwords,
        minter: TokenMinter,
        revocations: Revocations,
        sign_ups: SignUps,
    ) -> None:
        self._reader = reader
        self._passwords = passwords
        self._minter = minter
        self._revocations = revocations
        self._sign_ups = sign_ups

    async def sign_up(
        self,
        email: str,
        password: str,
        _caller: Caller = ANONYMOUS,
        /,
        *,
        invite: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> SignedUp:
        """As `Accounts.sign_up`. `metadata` is the app's own data about the user."""
        address = normalise_email(email)
        await self._require_invited(address, invite)
        require_acceptable(password, address)
        hashed = await self._passwords.hash(password)
        session_id, refresh_token = uuid4(), _new_refresh_token()
        account = await self._reader.fetch_row(
            "create_user",
            uuid4(),
            address,
            hashed,
            session_id,
            fingerprint(refresh_token),
            dumps(metadata or {}),
            self._minter.lifetime_s,
        )
        if account is None:
            raise Conflict("There is an account with this e-mail already; sign in instead.")
        if self._sign_ups is SignUps.INVITE:
            await self._reader.fetch("spend_invite", address)
        return SignedUp(address, "Account created.", self._session(account, session_id, refresh_token))

    async def _require_invited(self, address: str, invite: str | None) -> None:
        """Before the password is hashed, and before it could be seen whether there is an account."""
        if self._sign_ups is SignUps.OPEN:
            return
        if self._sign_ups is SignUps.CLOSED:
            raise Forbidden("This server accepts no sign-ups: its operator has switched them off.")
        if not invite:
            raise Forbidden("Sign-ups need an invite: ask the server's operator, and send its code as `invite`.")
        if not await self._reader.fetch("find_invite", address, hash_code(invite)):
            raise Forbidden("The invite is for another address, was used already, or has expired: ask for a new one.")

    async def sign_in(self, email: str, password: str, _caller: Caller = ANONYMOUS, /) -> Session:
        found = None
        with contextlib.suppress(Invalid):  # an invalid address gets the same answer, with the same timing
            found = await self._reader.fetch_row("find_user_by_email", normalise_email(email))
        stored = None if found is None else found["encrypted_password"]
        if not await self._passwords.matches(stored, password) or found is None:
            raise Unauthenticated(_WRONG_CREDENTIALS)
        if found["is_suspended"]:
            raise Forbidden(SUSPENDED)
        if is_outdated(found["encrypted_password"]):
            hashed = await self._passwords.hash(password)
            await self._reader.fetch_row("replace_hash", found["id"], found["encrypted_password"], hashed)
        session_id, refresh_token = uuid4(), _new_refresh_token()
        account = await self._reader.fetch_row(
            "open_session", session_id, found["id"], fingerprint(refresh_token), self._minter.lifetime_s
        )
        if account is None:  # deleted or suspended meanwhile
            raise Unauthenticated(_WRONG_CREDENTIALS)
        return self._session(account, session_id, refresh_token)

    async def refresh(self, refresh_token: str, _caller: Caller = ANONYMOUS, /) -> Session:
        new_token = _new_refresh_token()
        account = await self._reader.fetch_row(
            "rotate_refresh_token",
            fingerprint(refresh_token),
            fingerprint(new_token),
            REUSE_INTERVAL_S,
            self._minter.lifetime_s,
        )
        if account is not None and account["is_fresh"]:
            return self._session(account, account["session_id"], new_token)
        if account is not None and account["is_suspended"]:
            raise Forbidden(SUSPENDED)
        if account is not None:
            await self._revocations.publish()  # the statement has ended the session
        raise Unauthenticated("The refresh token is not valid; sign in again.")

    async def sign_out(self, principal: Principal, _caller: Caller = ANONYMOUS, /) -> None:
        if principal.session_id is not None:
            await self._reader.fetch("close_session", principal.session_id, principal.user_id)
            await self._revocations.publish()

    async def get_user(self, principal: Principal, _caller: Caller = ANONYMOUS, /) -> User:
        account = await self._reader.fetch_row("get_user", principal.user_id)
        if account is None:
            raise Unauthenticated
        return _user(account)

    def require_deletion(self) -> None:
        """Never raises: this store can delete accounts."""

    async def delete_user(self, principal: Principal, _caller: Caller = ANONYMOUS, /) -> None:
        if await self._reader.fetch_row("delete_user", principal.user_id) is None:
            raise Unauthenticated
        await self._revocations.publish()

    async def request_recovery(self, email: str, _caller: Caller = ANONYMOUS, /) -> str:
        normalise_email(email)
        return "This server sends no e-mail: ask its operator to set a new password."

    def _session(self, account: Any, session_id: UUID, refresh_token: str) -> Session:
        user = _user(account)
        metadata = orjson.loads(account["raw_user_meta_data"] or b"{}")
        token, expires_at = self._minter.mint(user.id, user.email, session_id, metadata)
        return Session(user, token, refresh_token, expires_in=self._minter.lifetime_s, expires_at=expires_at)


async def get_or_create_signing_secret(reader: PooledQueries) -> str:
    """The key that signs tokens if none is configured. It is generated once and stored in the database."""
    row = await reader.fetch_row("get_or_create_secret", "jwt_secret", secrets.token_hex(32))
    if row is None:
        raise RuntimeError("the database stored no secret")
    value: str = row["value"]
    return value


def _user(account: Any) -> User:
    return User(UserId(account["id"]), account["email"], account["created_at"], account["last_sign_in_at"])


def _new_refresh_token() -> str:
    return secrets.token_urlsafe(_REFRESH_TOKEN_BYTES)


def fingerprint(token: str) -> str:
    """The hash under which a refresh token is stored."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
