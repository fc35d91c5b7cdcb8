"""Reads public keys from a JSON Web Key Set (RFC 7517). Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jwt
import orjson

MAX_KEYS = 50
MAX_KID_LENGTH = 256
MIN_RSA_BITS = 2048
_MAX_NAME = 64
USABLE_KEYS = "ES256 (P-256) and RS256 (RSA with 2048 bits or more)"

_ALGORITHMS = {("EC", "P-256"): "ES256", ("RSA", None): "RS256"}
"""By key type and curve: the algorithms of Supabase, without HS256, whose keys are secret."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key with its one algorithm. The algorithm that a token names is ignored."""

    kid: str
    algorithm: str
    key: Any
    """The form that PyJWT expects."""


class NotAKeySet(Exception):
    """The body is not a JSON Web Key Set."""


def read_key_set(body: bytes) -> dict[str, PublicKey]:
    """The usable keys by `kid`. The set is empty for a project that signs only with its secret.

    Other keys (secrets, Ed25519, encryption keys, RSA below 2048 bits) are skipped. Raises `NotAKeySet`.
    """
    return {key.kid: key for key in _usable(_listed(body))}


def name_unusable_keys(body: bytes) -> list[str]:
    """The keys that `read_key_set` skips, for the operator: `kid`, type and curve. Raises `NotAKeySet`."""
    return [_name(jwk) for jwk in _listed(body) if not isinstance(jwk, dict) or _read(jwk) is None]


def _name(jwk: object) -> str:
    about = jwk if isinstance(jwk, dict) else {}
    kid, *kinds = (str(about[name])[:_MAX_NAME] if name in about else "" for name in ("kid", "kty", "crv", "alg"))
    return f"{kid or 'without a kid'} ({' '.join(kind for kind in kinds if kind) or 'no type'})"


def _listed(body: bytes) -> list[Any]:
    try:
        listed = orjson.loads(body)["keys"]
    except (orjson.JSONDecodeError, TypeError, KeyError, IndexError):
        raise NotAKeySet from None
    if not isinstance(listed, list):
        raise NotAKeySet
    return listed[:MAX_KEYS]


def _usable(listed: list[Any]) -> Iterator[PublicKey]:
    for jwk in listed:
        if isinstance(jwk, dict) and (key := _read(jwk)) is not None:
            yield key


def _read(jwk: dict[str, Any]) -> PublicKey | None:
    kid = jwk.get("kid")
    algorithm = _algorithm_of(jwk)
    is_for_signatures = jwk.get("use", "sig") == "sig" and _may_verify(jwk.get("key_ops"))
    if not isinstance(kid, str) or not 0 < len(kid) <= MAX_KID_LENGTH or algorithm is None or not is_for_signatures:
        return None
    try:
        key = jwt.PyJWK(jwk, algorithm=algorithm).key
    except Exception:  # noqa: BLE001 - the key is foreign input, and one bad key must not affect the others
        return None
    if algorithm == "RS256" and key.key_size < MIN_RSA_BITS:
        return None
    return PublicKey(kid, algorithm, key)


def _algorithm_of(jwk: dict[str, Any]) -> str | None:
    """The algorithm for this type of key, or None if the key names another one in `alg`."""
    kind, curve = jwk.get("kty"), jwk.get("crv")
    if not isinstance(kind, str) or not isinstance(curve, str | None):
        return None
    algorithm = _ALGORITHMS.get((kind, curve))
    return algorithm if jwk.get("alg", algorithm) == algorithm else None


def _may_verify(operations: object) -> bool:
    return operations is None or (isinstance(operations, list) and "verify" in operations)
