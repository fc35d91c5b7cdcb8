"""The authenticated caller."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from uuid import UUID

from server.limits.rates import RateLimiter
from server.model_request import UserId


class Scope(StrEnum):
    """A part of the API that a key may be limited to. A signed-in user has all scopes."""

    CREATE = "create"
    READ = "read"
    KEYS = "keys"
    USAGE = "usage"


SCOPES = {
    Scope.CREATE: "create, cancel and delete model requests, upload and delete files",
    Scope.READ: "read model requests, their streams and files, and the models on offer",
    Scope.KEYS: "manage the API keys of the user",
    Scope.USAGE: "read the usage of the user",
}
"""A description of each scope, for people."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A valid API key, and the hash that it is stored under. `rates`: its own limit of creates and uploads."""

    id: UUID
    digest: bytes = field(repr=False)
    scopes: frozenset[Scope]
    expires_at: datetime | None = None
    rates: RateLimiter | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """A user, from the claims of a verified token or by an API key.

    `session_id` is None for tokens without that claim, and for keys. `issued_at` is the age of a token: one without a
    session ends with the next new password, or the end of all sessions.
    """

    user_id: UserId
    session_id: UUID | None = None
    key: ApiKey | None = None
    issued_at: datetime = field(default=datetime.min.replace(tzinfo=UTC), compare=False)
