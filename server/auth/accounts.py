"""The interface of the account stores: the embedded accounts and Supabase Auth."""

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
    """A signed-in user's tokens. `expires_at`: seconds since the epoch. `expires_in`: seconds from now."""

    user: User
    access_token: str
    refresh_token: str
    expires_in: int
    expires_at: int


SUSPENDED = "This account is suspended: ask the server's operator."
CHECK_YOUR_EMAIL = "Please check your email for a link to confirm the address, then sign in."


@dataclass(frozen=True, slots=True)
class SignedUp:
    """The result of a sign-up. Without a session the address must be confirmed first.

    It holds no user id, because the result is the same for an address that already has an account.
    """

    email: str
    message: str
    session: Session | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """The client's address and access token, which Supabase Auth needs."""

    address: str | None = None
    token: str = field(default="", repr=False)


ANONYMOUS = Caller()


class Accounts(Protocol):
    """Every method raises a `Problem` for a fault of the caller. Database errors pass through."""

    async def sign_up(
        self, email: str, password: str, caller: Caller = ANONYMOUS, /, *, invite: str | None = None
    ) -> SignedUp:
        """Create an account, and sign it in unless its address must be confirmed.

        Raises `Invalid`, `Conflict`, and `Forbidden` where sign-ups are closed or need another `invite`.
        """
        ...

    async def sign_in(self, email: str, password: str, caller: Caller = ANONYMOUS, /) -> Session:
        """Raises `Unauthenticated`, with the same text and timing for an unknown user and a wrong password.

        Raises `Forbidden` for the right password of a suspended account.
        """
        ...

    async def refresh(self, refresh_token: str, caller: Caller = ANONYMOUS, /) -> Session:
        """Exchange a refresh token for new tokens. Each works once.

        Raises `Unauthenticated`, and `Forbidden` for a suspended account.
        """
        ...

    async def sign_out(self, principal: Principal, caller: Caller = ANONYMOUS, /) -> None:
        """End the session with all its tokens: here at once, at other instances within 5 s."""
        ...

    async def get_user(self, principal: Principal, caller: Caller = ANONYMOUS, /) -> User:
        """Raises `Unauthenticated` if the account was deleted."""
        ...

    def require_deletion(self) -> None:
        """Raises `Forbidden` if this store cannot delete accounts. Call it before any data is deleted."""
        ...

    async def delete_user(self, principal: Principal, caller: Caller = ANONYMOUS, /) -> None:
        """Delete the account with all its data."""
        ...

    async def request_recovery(self, email: str, caller: Caller = ANONYMOUS, /) -> str:
        """The text for a user who forgot the password. It is the same whether the account exists or not."""
        ...
