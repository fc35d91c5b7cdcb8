"""The authenticated caller."""

from dataclasses import dataclass
from uuid import UUID

from server.model_request import UserId


@dataclass(frozen=True, slots=True)
class Principal:
    """A signed-in user, from the claims of a verified token. `session_id` is None for tokens without that claim."""

    user_id: UserId
    session_id: UUID | None = None
