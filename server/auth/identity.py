"""Chooses the account store and the token verification: embedded accounts with our secret, or a Supabase project."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from server.auth.accounts import Accounts
from server.auth.embedded_accounts import EmbeddedAccounts
from server.auth.gotrue.gotrue_accounts import GoTrueAccounts
from server.auth.issuers import project_issuers
from server.auth.key_set import KeySet
from server.auth.passwords import Passwords
from server.auth.revocations import Revocations
from server.auth.supabase import connect_accounts
from server.auth.tokens import LEEWAY_S, MAX_PROJECT_LIFETIME_S, SigningKey, TokenMinter, TokenVerifier
from server.settings import Settings, SignUps
from server.storage.reader import PooledQueries

Opening = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Identity:
    """`open` is an async context manager in which both can be used."""

    accounts: Accounts
    verifier: TokenVerifier
    open: Opening
    gotrue: GoTrueAccounts | None = None
    """The embedded accounts for client libraries of Supabase Auth; None if the accounts are in Supabase."""


def create_identity(
    settings: Settings, reader: PooledQueries, signing_key: SigningKey, revocations: Revocations
) -> Identity:
    """Chosen by the settings. Opens no connection yet."""
    if settings.supabase_url is None:
        return _embedded(settings, reader, signing_key, revocations)
    return _supabase(settings, reader, signing_key, revocations)


def _embedded(settings: Settings, reader: PooledQueries, signing_key: SigningKey, revocations: Revocations) -> Identity:
    passwords = Passwords()

    @asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        try:
            yield
        finally:
            passwords.close()

    minter = TokenMinter(signing_key, lifetime_s=settings.access_token_ttl_s)
    accounts = EmbeddedAccounts(
        reader,
        passwords=passwords,
        minter=minter,
        revocations=revocations,
        sign_ups=settings.sign_up_policy or SignUps.OPEN,
    )
    gotrue = GoTrueAccounts(accounts, reader, passwords=passwords, revocations=revocations)
    return Identity(accounts, TokenVerifier(signing_key, revocations=revocations), opened, gotrue)


def _supabase(settings: Settings, reader: PooledQueries, signing_key: SigningKey, revocations: Revocations) -> Identity:
    base_url = f"{settings.supabase_url}/auth/v1"

    async def revoke(subject: UUID) -> None:
        await reader.fetch("block_subject", subject, MAX_PROJECT_LIFETIME_S + LEEWAY_S)
        await revocations.publish()

    accounts = connect_accounts(settings, revoke)
    public_keys = KeySet(f"{base_url}/.well-known/jwks.json")

    @asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        public_keys.refresh_if_due()  # so that the first token does not wait for the download
        try:
            yield
        finally:
            await public_keys.close()
            await accounts.close()

    verifier = TokenVerifier(
        signing_key,
        issuers=project_issuers(
            [base_url, *([settings.supabase_jwt_issuer] if settings.supabase_jwt_issuer else [])],
            reference=settings.project_reference,
        ),
        max_lifetime_s=MAX_PROJECT_LIFETIME_S,
        public_keys=public_keys,
        revocations=revocations,
    )
    return Identity(accounts, verifier, opened)
