"""Access tokens with the claims of Supabase Auth: minted for embedded accounts, verified for every request."""

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import jwt
import orjson
import structlog

from server.auth.issuers import OWN_ISSUER, Issuers, OwnIssuer
from server.auth.key_set import KeySet
from server.auth.principal import Principal
from server.auth.public_keys import MAX_KID_LENGTH
from server.auth.revocations import Revocations
from server.errors import Unauthenticated, Unavailable
from server.model_request import UserId

AUDIENCE = "authenticated"
MAX_TOKEN_BYTES = 8192
MAX_LIFETIME_S = 86_400
"""The longest `ACCESS_TOKEN_TTL_S`. The statements in accounts.sql keep revocations an hour longer."""
MAX_PROJECT_LIFETIME_S = 604_800
"""One week, the longest setting of a Supabase project."""
LEEWAY_S = 30
"""Difference of clocks that is accepted in `exp`, `iat` and `nbf`."""
QUIET_S = 60.0
"""Least time between two log lines about refused tokens."""
_MAX_LOGGED = 200
MAX_KNOWN_TOKENS = 10_000
"""About 5 MB. The oldest entry is evicted first; its token is verified again."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_BEARER = re.compile(r"bearer +(\S+)", re.ASCII | re.IGNORECASE)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_REQUIRED = ("exp", "iat", "sub", "aud")

log = structlog.get_logger(__name__)


def bearer_token(headers: Sequence[str]) -> str:
    """The token of the single `Authorization` header (RFC 6750, 2.1). Raises `Unauthenticated`."""
    match = _BEARER.fullmatch(headers[0]) if len(headers) == 1 else None
    if match is None:
        raise Unauthenticated
    return match[1]


class SigningKey:
    """The HS256 secret. It may come from the database; until it is read, no token is minted or valid."""

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
    """Mints tokens that are valid for `lifetime_s`."""

    def __init__(self, key: SigningKey, *, lifetime_s: int = 3600, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self.lifetime_s = lifetime_s
        self._clock = clock

    def mint(
        self, user_id: UserId, email: str, session_id: UUID, user_metadata: Mapping[str, Any] | None = None
    ) -> tuple[str, int]:
        """A token, and its expiry in seconds since the epoch."""
        now = int(self._clock())
        expires_at = now + self.lifetime_s
        claims = {
            "iss": OWN_ISSUER,
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
    """Verifies with a configured key and the algorithm of that key. The algorithm that the token names is ignored.

    A token whose `kid` names one of the project's public keys is verified with that key, any other with the secret, if
    there is one. So tokens from before and after a change of keys are both valid.

    Verified tokens are cached by their hash until they expire, because clients send the same token with every call and
    the verification is expensive. A change of the public keys clears the cache.
    """

    def __init__(
        self,
        key: SigningKey,
        *,
        issuers: Issuers | None = None,
        max_lifetime_s: int = MAX_LIFETIME_S,
        public_keys: KeySet | None = None,
        revocations: Revocations | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._key = key
        self._issuers = issuers or OwnIssuer()
        self._max_lifetime_s = max_lifetime_s
        self._public_keys = public_keys
        self._revocations = revocations or Revocations()
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[Principal, int]] = OrderedDict()
        self._generation = 0
        self._logged_at = float("-inf")

    async def identify(self, token: str) -> Principal:
        """The user of a token that is valid and not revoked. Raises `Unauthenticated`, and as `_verify_with`."""
        keys = self._public_keys
        principal = self.verify(token) if keys is None else await self._verify_with(keys, token)
        if self._revocations.is_revoked(principal):
            raise Unauthenticated(is_revoked=True)
        return principal

    async def _verify_with(self, public_keys: KeySet, token: str) -> Principal:
        """As `verify`, after a download of the public keys if the token's key is unknown.

        Raises `Unavailable` if the key is unknown and may be in a list that was not downloaded yet: the project may
        have a new key, and a 401 would sign its users out.
        """
        public_keys.refresh_if_due()
        if (principal := self._find_cached(token)) is not None:
            return principal
        kid = _key_id(token)
        if kid is None or public_keys.get(kid) is not None:
            return self.verify(token)
        retry_after_s = await public_keys.wait_for_key(kid)
        try:
            return self.verify(token)
        except Unauthenticated:
            is_certain = public_keys.is_loaded and not self._may_become_valid(token)
            if retry_after_s is None or is_certain:
                raise
            raise Unavailable(
                "Tokens cannot be checked at the moment; try again.", retry_after_s=retry_after_s
            ) from None

    def verify(self, token: str) -> Principal:
        """The user of a valid token, by the keys known now. Raises only `Unauthenticated`."""
        if (principal := self._find_cached(token)) is not None:
            return principal
        principal, expires_at = self._verify(token)
        self._known[_fingerprint(token)] = principal, expires_at
        if len(self._known) > MAX_KNOWN_TOKENS:
            self._known.popitem(last=False)
        return principal

    def _may_become_valid(self, token: str) -> bool:
        """Whether a key that is not known yet could make the token valid: not expired, and not signed with a secret.

        It reads unverified text, and only chooses between two refusals.
        """
        try:
            algorithm = jwt.get_unverified_header(token).get("alg")
            claims = orjson.loads(jwt.utils.base64url_decode(token.split(".")[1]))
            return algorithm != "HS256" and self._clock() < _seconds(claims["exp"]) + LEEWAY_S
        except Exception:  # noqa: BLE001 - hostile input
            return False

    def _find_cached(self, token: str) -> Principal | None:
        """A token of any shape may be looked for: only verified ones are found."""
        if self._public_keys is not None and self._public_keys.generation != self._generation:
            self._generation = self._public_keys.generation
            self._known.clear()
        known = self._known.get(_fingerprint(token))
        return known[0] if known is not None and self._clock() < known[1] + LEEWAY_S else None

    def _verify(self, token: str) -> tuple[Principal, int]:
        _require_shape(token)
        try:
            key, algorithm, is_public = self._choose_key(token)
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=AUDIENCE,
                options={
                    "require": list(_REQUIRED),
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                    "verify_iss": False,
                },
            )
            self._require_issuer(claims.get("iss"), is_public=is_public)
            return self._principal(claims), claims["exp"]
        except Exception:  # noqa: BLE001 - a token is hostile input: any error means 401
            raise Unauthenticated from None

    def _require_issuer(self, issuer: object, *, is_public: bool) -> None:
        """The signature is verified here, so strangers cannot fill the log."""
        if self._issuers.accept(issuer, has_public_key=is_public):
            return
        if self._clock() >= self._logged_at + QUIET_S:
            self._logged_at = self._clock()
            log.warning(
                "token_refused",
                reason="the issuer is not accepted",
                iss=str(issuer)[:_MAX_LOGGED],
                fix="If these tokens are of the project at SUPABASE_URL, set SUPABASE_JWT_ISSUER to this issuer.",
            )
        raise Unauthenticated

    def _choose_key(self, token: str) -> tuple[Any, str, bool]:
        """The key, its algorithm, and whether it is a public one of the project."""
        if self._public_keys is not None and (kid := _key_id(token)) is not None:
            found = self._public_keys.get(kid)
            if found is not None:
                return found.key, found.algorithm, True
        return self._key.secret, "HS256", False

    def _principal(self, claims: dict[str, Any]) -> Principal:
        """Check the claims with strict types: PyJWT would accept a numeric string or 10**400 as `exp`."""
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
            issued_at=datetime.fromtimestamp(issued_at, UTC),
        )


def _require_shape(token: str) -> None:
    """Called first: PyJWT raises UnicodeEncodeError for non-ASCII text, and is slow for a huge token."""
    if len(token) > MAX_TOKEN_BYTES or not _TOKEN.fullmatch(token):
        raise Unauthenticated


def _fingerprint(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()


def _key_id(token: str) -> str | None:
    """The unverified `kid` of the token's header; None without a usable one."""
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
