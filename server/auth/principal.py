"""The authenticated caller."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from server.model_request import UserId


@dataclass(frozen=True, slots=True)
class Principal:
    """A signed-in user, from the claims of a verified token. `session_id` is None for tokens without that claim.

    `issued_at` is the age of the credential: a credential without a session ends with the next new password.
    """

    user_id: UserId
    session_id: UUID | None = None
    issued_at: datetime = field(default=datetime.min.replace(tzinfo=UTC), compare=False)
