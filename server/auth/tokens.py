"""Access tokens: minted for our own accounts, verified for every request, with the claims of Supabase Auth."""

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import jwt

from server.auth.key_set import KeySet
from server.auth.principal import Principal
from server.auth.public_keys import MAX_KID_LENGTH
from server.errors import Unauthenticated, Unavailable
from server.model_request import UserId

ISSUER = "ai-sdk-server/auth/v1"
AUDIENCE = "authenticated"
ACCESS_TOKEN_S = 3600
MAX_TOKEN_BYTES = 8192
MAX_LIFETIME_S = 86_400
MAX_PROJECT_LIFETIME_S = 604_800
"""What a Supabase project can be set to: a week."""
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

    def mint(
        self, user_id: UserId, email: str, session_id: UUID, user_metadata: Mapping[str, Any] | None = None
    ) -> tuple[str, int]:
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
            "user_metadata": user_metadata or {},
            "role": "authenticated",
            "aal": "aal1",
            "amr": [{"method": "password", "timestamp": now}],
            "session_id": str(session_id),
            "is_anonymous": False,
        }
        return jwt.encode(claims, self._key.secret, algorithm="HS256"), expires_at


class TokenVerifier:
    """Verifies by a key that is configured and the one algorithm that belongs to it, never by what the token says.

    A token whose `kid` is one of the project's public keys is verified by that key, any other by the secret, where
    there is one: so tokens of before and after a change of keys are good side by side.

    What has been verified is remembered until it expires, by the hash of the whole token: a client sends the same one
    with every call, and the check costs more than the rest of a small answer. When the public keys change, all of it
    is forgotten.
    """

    def __init__(
        self,
        key: SigningKey,
        *,
        issuer: str = ISSUER,
        max_lifetime_s: int = MAX_LIFETIME_S,
        public_keys: KeySet | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._key = key
        self._issuer = issuer
        self._max_lifetime_s = max_lifetime_s
        self._public_keys = public_keys
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[Principal, int]] = OrderedDict()
        self._generation = 0

    async def identify(self, token: str) -> Principal:
        """As `verify`, after a look for the key where it is not known yet.

        Raises `Unavailable` while nothing can be said of the token, because the project's keys were never to be had.
        """
        if self._public_keys is None:
            return self.verify(token)
        self._public_keys.refresh_if_due()
        if (principal := self._recall(token)) is not None:
            return principal
        kid = _key_id(token)
        if kid is None or self._public_keys.get(kid) is not None:
            return self.verify(token)
        await self._public_keys.look_for(kid)
        try:
            return self.verify(token)
        except Unauthenticated:
            if self._public_keys.is_loaded:
                raise
            raise Unavailable("Tokens cannot be checked at the moment; try again.", retry_after_s=5) from None

    def verify(self, token: str) -> Principal:
        """Whom the token speaks for, by the keys at hand. Raises `Unauthenticated`, and nothing else, for anything
        wrong with it.
        """
        if (principal := self._recall(token)) is not None:
            return principal
        principal, expires_at = self._verify(token)
        self._known[_fingerprint(token)] = principal, expires_at
        if len(self._known) > MAX_KNOWN_TOKENS:
            self._known.popitem(last=False)
        return principal

    def _recall(self, token: str) -> Principal | None:
        """What is remembered of a token that was verified before."""
        _require_shape(token)
        self._forget_if_keys_changed()
        known = self._known.get(_fingerprint(token))
        return known[0] if known is not None and self._clock() < known[1] + LEEWAY_S else None

    def _forget_if_keys_changed(self) -> None:
        if self._public_keys is not None and self._public_keys.generation != self._generation:
            self._generation = self._public_keys.generation
            self._known.clear()

    def _verify(self, token: str) -> tuple[Principal, int]:
        try:
            key, algorithm = self._choose_key(token)
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=AUDIENCE,
                issuer=self._issuer,
                options={"require": list(_REQUIRED), "verify_exp": False, "verify_iat": False, "verify_nbf": False},
            )
            return self._principal(claims), claims["exp"]
        except Exception:  # noqa: BLE001 - a token is hostile input: whatever it breaks, the answer is 401
            raise Unauthenticated from None

    def _choose_key(self, token: str) -> tuple[Any, str]:
        if self._public_keys is not None and (kid := _key_id(token)) is not None:
            found = self._public_keys.get(kid)
            if found is not None:
                return found.key, found.algorithm
        return self._key.secret, "HS256"

    def _principal(self, claims: dict[str, Any]) -> Principal:
        """Claims are judged here, where types are strict: PyJWT takes a numeric string for `exp`, and 10**400."""
        now = self._clock()
        expires_at, issued_at = _seconds(claims["exp"]), _seconds(claims["iat"])
        starts_at = max(issued_at, _seconds(claims.get("nbf", issued_at)))
        if not starts_at - LEEWAY_S <= now < expires_at + LEEWAY_S:
            raise Unauthenticated
        if expires_at - issued_at > self._max_lifetime_s or claims.get("role") != "authenticated":
            raise Unauthenticated
        session_id = claims.get("session_id")
        return Principal(
            user_id=UserId(_uuid(claims["sub"])),
            session_id=None if session_id is None else _uuid(session_id),
        )


def _require_shape(token: str) -> None:
    """Before anything else: PyJWT raises UnicodeEncodeError for non-ASCII, and spends time on what is huge."""
    if len(token) > MAX_TOKEN_BYTES or not _TOKEN.fullmatch(token):
        raise Unauthenticated


def _fingerprint(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _key_id(token: str) -> str | None:
    """The `kid` of its header, which is not to be trusted; None where there is none, or no header."""
    _require_shape(token)
    try:
        kid = jwt.get_unverified_header(token).get("kid")
    except Exception:  # noqa: BLE001 - hostile input, as above
        return None
    return kid if isinstance(kid, str) and 0 < len(kid) <= MAX_KID_LENGTH else None


def _seconds(claim: object) -> int:
    if type(claim) is not int or claim < 0:
        raise Unauthenticated
    return claim


def _uuid(claim: object) -> UUID:
    if not isinstance(claim, str) or not _UUID.fullmatch(claim):
        raise Unauthenticated
    return UUID(claim)
