"""Chooses the account store and the token verification: embedded accounts with our secret, or a Supabase project."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from server.auth.accounts import Accounts
from server.auth.embedded_accounts import EmbeddedAccounts
from server.auth.gotrue.gotrue_accounts import GoTrueAccounts
from server.auth.issuers import project_issuers
from server.auth.key_set import KeySet
from server.auth.passwords import Passwords
from server.auth.supabase import connect_accounts
from server.auth.tokens import MAX_PROJECT_LIFETIME_S, SigningKey, TokenMinter, TokenVerifier
from server.settings import Settings
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


def create_identity(settings: Settings, reader: PooledQueries, signing_key: SigningKey) -> Identity:
    """Chosen by the settings. Opens no connection yet."""
    if settings.supabase_url is None:
        return _embedded(reader, signing_key)
    return _supabase(settings, f"{settings.supabase_url}/auth/v1", signing_key)


def _embedded(reader: PooledQueries, signing_key: SigningKey) -> Identity:
    passwords = Passwords()

    @asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        try:
            yield
        finally:
            passwords.close()

    accounts = EmbeddedAccounts(reader, passwords=passwords, minter=TokenMinter(signing_key))
    return Identity(accounts, TokenVerifier(signing_key), opened, GoTrueAccounts(accounts, reader, passwords))


def _supabase(settings: Settings, base_url: str, signing_key: SigningKey) -> Identity:
    accounts = connect_accounts(settings)
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
    )
    return Identity(accounts, verifier, opened)
