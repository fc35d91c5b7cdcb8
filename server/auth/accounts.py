"""What the server needs of whoever keeps the accounts: our own tables, or Supabase Auth."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from server.auth.principal import Principal
from server.model_request import UserId


@dataclass(frozen=True, slots=True)
class User:
    id: UserId
    email: str
    created_at: datetime
    last_sign_in_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in user's tokens. `expires_at` is in seconds since the epoch, `expires_in` in seconds from now."""

    user: User
    access_token: str
    refresh_token: str
    expires_in: int
    expires_at: int


CHECK_YOUR_EMAIL = "Please check your email for a link to confirm the address, then sign in."


@dataclass(frozen=True, slots=True)
class SignedUp:
    """The answer to a sign-up. Without a session the address has to be confirmed first.

    Then nothing but the address is said of the user: it is the same for an account that exists already, whose id is
    nobody's business.
    """

    email: str
    message: str
    session: Session | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """What of the caller whoever keeps the accounts may have to know: the client's address, the access token."""

    address: str | None = None
    token: str = field(default="", repr=False)


NOBODY = Caller()


class Accounts(Protocol):
    """Every method raises a `Problem` for what the caller did wrong; database errors pass through."""

    async def sign_up(self, email: str, password: str, caller: Caller = NOBODY, /) -> SignedUp:
        """Create an account, and sign it in where no address has to be confirmed. Raises `Invalid` and `Conflict`."""
        ...

    async def sign_in(self, email: str, password: str, caller: Caller = NOBODY, /) -> Session:
        """Raises `Unauthenticated`: the same words after the same time for an unknown user and a wrong password."""
        ...

    async def refresh(self, refresh_token: str, caller: Caller = NOBODY, /) -> Session:
        """Trade a refresh token for new tokens; each works once. Raises `Unauthenticated`."""
        ...

    async def sign_out(self, principal: Principal, caller: Caller = NOBODY, /) -> None:
        """End the session: its refresh tokens are void at once, its access token when it expires."""
        ...

    async def get_user(self, principal: Principal, caller: Caller = NOBODY, /) -> User:
        """Raises `Unauthenticated` when the account is gone."""
        ...

    def require_deletion(self) -> None:
        """Raises `Forbidden` where no account can be deleted: before anything of one goes."""
        ...

    async def delete_user(self, principal: Principal, caller: Caller = NOBODY, /) -> None:
        """Delete the account and everything that is its own."""
        ...

    async def request_recovery(self, email: str, caller: Caller = NOBODY, /) -> str:
        """What to tell someone who forgot the password; the same whether the account exists or not."""
        ...
