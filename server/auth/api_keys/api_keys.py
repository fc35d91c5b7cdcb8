"""The API keys of one user: create, list, get, revoke."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import asyncpg
import structlog
from pydantic import AfterValidator, Field

from server.auth.api_keys.key_format import SHOWN_CHARS, digest_of, mint_key
from server.auth.principal import ApiKey, Principal, Scope
from server.errors import Conflict, Forbidden, NotFound, Unauthenticated
from server.model_request import UserId, mint_id
from server.schemas import Body
from server.storage.reader import PooledQueries

MAX_KEYS = 100
MAX_NAME_LENGTH = 100
MAX_LIFETIME_S = 315_360_000
"""Ten years."""
MAX_PER_MINUTE = 1_000_000
DEFAULT_SCOPES = (Scope.CREATE, Scope.READ)
NO_KEY = "There is no API key of yours with this id."

log = structlog.get_logger(__name__)


def _each_once(scopes: list[Scope]) -> list[Scope]:
    return list(dict.fromkeys(scopes))


class NewKey(Body):
    """A new API key. Without `expires_in_s` it does not expire."""

    name: str = Field(
        min_length=1,
        max_length=MAX_NAME_LENGTH,
        examples=["nightly job"],
        description="For people, to tell keys apart.",
    )
    scopes: Annotated[list[Annotated[Scope, Field(strict=False)]], AfterValidator(_each_once)] | None = Field(
        None,
        min_length=1,
        examples=[["create", "read"]],
        description="Its scopes: create and read by default.",
    )
    expires_in_s: int | None = Field(
        None, ge=1, le=MAX_LIFETIME_S, examples=[3600], description="Seconds until it expires."
    )
    requests_per_minute: int | None = Field(
        None, ge=1, le=MAX_PER_MINUTE, examples=[30], description="Its own limit of creates and uploads."
    )


class ApiKeys:
    """Every method is for one user: keys of others do not exist for them.

    `on_revoked` is called with the id of a key that was revoked.
    """

    def __init__(self, reader: PooledQueries, *, on_revoked: Callable[[UUID], None]) -> None:
        self._reader = reader
        self._on_revoked = on_revoked

    async def create(self, principal: Principal, new: NewKey) -> tuple[str, asyncpg.Record]:
        """The key, which is not stored and cannot be shown again, and its public fields.

        A key that a key makes may do no more than the key that makes it, and lasts no longer. Raises `Forbidden`,
        `Conflict` if the user has `MAX_KEYS`, and `Unauthenticated` if the account was deleted.
        """
        scopes = new.scopes or list(DEFAULT_SCOPES)
        if principal.key is not None:
            _require_less(principal.key, scopes, new.expires_in_s)
        key = mint_key()
        try:
            row = await self._reader.fetch_row(
                "create_api_key",
                mint_id(),
                principal.user_id,
                digest_of(key),
                key[:SHOWN_CHARS],
                new.name,
                scopes,
                new.requests_per_minute,
                new.expires_in_s,
                MAX_KEYS,
            )
        except asyncpg.ForeignKeyViolationError:
            raise Unauthenticated from None
        if row is None:
            raise Conflict(f"You have {MAX_KEYS} API keys; delete one of them first.")
        log.info("key_created", key_id=str(row["id"]), user=str(principal.user_id), scopes=" ".join(scopes))
        return key, row

    async def of_user(self, user_id: UserId) -> list[asyncpg.Record]:
        """The keys that have not expired, newest first."""
        return await self._reader.fetch("list_api_keys", user_id)

    async def get(self, user_id: UserId, key_id: UUID) -> asyncpg.Record:
        """Raises `NotFound`."""
        row = await self._reader.fetch_row("get_api_key", key_id, user_id)
        if row is None:
            raise NotFound(NO_KEY)
        return row

    async def revoke(self, user_id: UserId, key_id: UUID) -> None:
        """Delete the key. It is refused here from now on, and soon at other instances. Raises `NotFound`."""
        if await self._reader.fetch_row("delete_api_key", key_id, user_id) is None:
            raise NotFound(NO_KEY)
        self._on_revoked(key_id)
        log.info("key_revoked", key_id=str(key_id), user=str(user_id))


def _require_less(maker: ApiKey, scopes: list[Scope], expires_in_s: int | None) -> None:
    """Raise `Forbidden` if a new key would have a scope that its maker has not, or would outlast it."""
    if missing := [scope for scope in scopes if scope not in maker.scopes]:
        raise Forbidden(f"This API key does not have the scope '{missing[0]}', so it cannot give it to another key.")
    if maker.expires_at is None:
        return
    left_s = (maker.expires_at - datetime.now(UTC)).total_seconds()
    if expires_in_s is None or expires_in_s > left_s:
        raise Forbidden(
            f"This API key expires in {max(0, int(left_s))} s, and a key that it makes cannot last longer: "
            "send a smaller expires_in_s."
        )
