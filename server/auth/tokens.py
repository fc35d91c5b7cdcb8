"""Access tokens: minted for our own accounts, verified for every request, with the claims of Supabase Auth."""

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import jwt

from server.auth.principal import Principal
from server.errors import Unauthenticated
from server.model_request import UserId

ISSUER = "ai-sdk-server/auth/v1"
AUDIENCE = "authenticated"
ACCESS_TOKEN_S = 3600
MAX_TOKEN_BYTES = 8192
MAX_LIFETIME_S = 86_400
LEEWAY_S = 10
MAX_KNOWN_TOKENS = 10_000
"""About 5 MB; the oldest is forgotten first, and merely verified again."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_BEARER = re.compile(r"bearer +(\S+)", re.ASCII | re.IGNORECASE)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_REQUIRED = ("exp", "iat", "sub", "aud", "iss")


def bearer_token(headers: Sequence[str]) -> str:
    """The token of the one `Authorization` header (RFC 6750, 2.1). Raises `Unauthenticated` for anything else."""
    match = _BEARER.fullmatch(headers[0]) if len(headers) == 1 else None
    if match is None:
        raise Unauthenticated
    return match[1]


class SigningKey:
    """The HS256 secret. It may be known only once the database is there; until then no token is minted or valid."""

    def __init__(self, secret: str | None = None) -> None:
        self._secret = secret

    @property
    def is_known(self) -> bool:
        return self._secret is not None

    @property
    def secret(self) -> str:
        if self._secret is None:
            raise Unauthenticated
        return self._secret

    def learn(self, secret: str) -> None:
        self._secret = secret


class TokenMinter:
    """Signs access tokens with HS256."""

    def __init__(self, key: SigningKey, *, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._clock = clock

    def mint(self, user_id: UserId, email: str, session_id: UUID) -> tuple[str, int]:
        """A token for `ACCESS_TOKEN_S` seconds, and when it expires in seconds since the epoch."""
        now = int(self._clock())
        expires_at = now + ACCESS_TOKEN_S
        claims = {
            "iss": ISSUER,
            "sub": str(user_id),
            "aud": AUDIENCE,
            "exp": expires_at,
            "iat": now,
            "email": email,
            "phone": "",
            "app_metadata": {"provider": "email", "providers": ["email"]},
            "user_metadata": {},
            "role": "authenticated",
            "aal": "aal1",
            "amr": [{"method": "password", "timestamp": now}],
            "session_id": str(session_id),
            "is_anonymous": False,
        }
        return jwt.encode(claims, self._key.secret, algorithm="HS256"), expires_at


class TokenVerifier:
    """Verifies by one key and the one algorithm that belongs to it, never by what the token says of itself.

    What has been verified is remembered until it expires, by the hash of the whole token: a client sends the same one
    with every call, and the check costs more than the rest of a small answer.
    """

    def __init__(self, key: SigningKey, *, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[Principal, int]] = OrderedDict()

    def verify(self, token: str) -> Principal:
        """Whom the token speaks for. Raises `Unauthenticated`, and nothing else, for anything wrong with it."""
        # Shape first: PyJWT raises UnicodeEncodeError for non-ASCII, and spends time on what is huge.
        if len(token) > MAX_TOKEN_BYTES or not _TOKEN.fullmatch(token):
            raise Unauthenticated
        fingerprint = hashlib.sha256(token.encode()).digest()
        if (known := self._known.get(fingerprint)) is not None and self._clock() < known[1] + LEEWAY_S:
            return known[0]
        principal, expires_at = self._verify(token)
        self._known[fingerprint] = principal, expires_at
        if len(self._known) > MAX_KNOWN_TOKENS:
            self._known.popitem(last=False)
        return principal

    def _verify(self, token: str) -> tuple[Principal, int]:
        try:
            claims = jwt.decode(
                token,
                self._key.secret,
                algorithms=["HS256"],
                audience=AUDIENCE,
                issuer=ISSUER,
                options={"require": list(_REQUIRED), "verify_exp": False, "verify_iat": False, "verify_nbf": False},
            )
            return self._principal(claims), claims["exp"]
        except Exception:  # noqa: BLE001 - a token is hostile input: whatever it breaks, the answer is 401
            raise Unauthenticated from None

    def _principal(self, claims: dict[str, Any]) -> Principal:
        """Claims are judged here, where types are strict: PyJWT takes a numeric string for `exp`, and 10**400."""
        now = self._clock()
        expires_at, issued_at = _seconds(claims["exp"]), _seconds(claims["iat"])
        starts_at = max(issued_at, _seconds(claims.get("nbf", issued_at)))
        if not starts_at - LEEWAY_S <= now < expires_at + LEEWAY_S:
            raise Unauthenticated
        if expires_at - issued_at > MAX_LIFETIME_S or claims.get("role") != "authenticated":
            raise Unauthenticated
        email = claims.get("email", "")
        session_id = claims.get("session_id")
        return Principal(
            user_id=UserId(_uuid(claims["sub"])),
            email=email if isinstance(email, str) else "",
            session_id=None if session_id is None else _uuid(session_id),
        )


def _seconds(claim: object) -> int:
    if type(claim) is not int or claim < 0:
        raise Unauthenticated
    return claim


def _uuid(claim: object) -> UUID:
    if not isinstance(claim, str) or not _UUID.fullmatch(claim):
        raise Unauthenticated
    return UUID(claim)
