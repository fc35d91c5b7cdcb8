"""Who is calling."""

from dataclasses import dataclass
from uuid import UUID

from server.model_request import UserId


@dataclass(frozen=True, slots=True)
class Principal:
    """A signed-in user, as the verified token says; `session_id` is None for tokens that carry none."""

    user_id: UserId
    session_id: UUID | None = None
