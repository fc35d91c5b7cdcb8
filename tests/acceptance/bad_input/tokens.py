"""Bad credentials. Each forged token differs in one thing from one that is accepted."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

from tests.acceptance.bad_input.case import (
    CANARY,
    TOKEN,
    Case,
    account,
    fetch,
    malformed,
    post,
    sign_in,
    unauthenticated,
)
from tests.acceptance.bad_input.targets import NOBODYS

SIGNING_SECRET = "the secret that signs the tokens of this test"
_NOW = int(time.time())
_UUID = "0197a1b2-0000-7000-8000-000000000000"
_CLAIMS = {
    "iss": "ai-sdk-server/auth/v1",
    "sub": _UUID,
    "aud": "authenticated",
    "role": "authenticated",
    "iat": _NOW,
    "exp": _NOW + 43_200,
    "email": f"{CANARY}@example.com",
}
_ABSENT = object()


def forge(header: dict[str, Any] | None = None, /, *, secret: str = SIGNING_SECRET, **claims: Any) -> str:
    """A token signed with HS256 whatever its header says; `_ABSENT` leaves a claim out."""
    kept = {name: value for name, value in (_CLAIMS | claims).items() if value is not _ABSENT}
    return _signed({"alg": "HS256", "typ": "JWT"} | (header or {}), json.dumps(kept).encode(), secret=secret)


def _signed(header: dict[str, Any], payload: bytes, *, secret: str = SIGNING_SECRET) -> str:
    content = f"{_base64(json.dumps(header).encode())}.{_base64(payload)}"
    return f"{content}.{_base64(hmac.digest(secret.encode(), content.encode(), hashlib.sha256))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unsigned(token: str) -> str:
    return token.rpartition(".")[0] + "."


def _bearer(name: str, token: str) -> Case:
    return unauthenticated(name, fetch("/api/requests", token=token))


def _header(name: str, *headers: str) -> Case:
    return unauthenticated(name, fetch("/api/requests", *headers, token=None))


_VALID = f"Authorization: Bearer {TOKEN}"

_HEADERS = (
    _header("none"),
    _header("empty header", "Authorization:"),
    _header("scheme alone", "Authorization: Bearer"),
    _header("basic", f"Authorization: Basic {_base64(CANARY.encode())}"),
    _header("other scheme", f"Authorization: Token {TOKEN}"),
    _header("no scheme", f"Authorization: {TOKEN}"),
    _header("two headers, the first good", _VALID, f"Authorization: Bearer {CANARY}"),
    _header("two headers, the second good", f"Authorization: Bearer {CANARY}", _VALID),
    _header("two in one header", f"Authorization: Bearer {TOKEN}, Bearer {CANARY}"),
    _header("in a cookie", f"Cookie: access_token={TOKEN}"),
    _header("as an API key", f"X-Api-Key: {TOKEN}"),
    unauthenticated("in the query", fetch(f"/api/requests?access_token={TOKEN}", token=None)),
    unauthenticated("in the body", post("/api/requests", b'{"access_token":"x"}', token=None)),
    unauthenticated("none on one request", fetch(NOBODYS, token=None)),
    unauthenticated("none on the user", fetch("/auth/user", token=None)),
    unauthenticated("none to delete the user", fetch("/auth/user", method="DELETE", token=None)),
    unauthenticated("none to sign out", post("/auth/signout", b"", token=None)),
)

_SHAPES = (
    _bearer("not a token", CANARY),
    _bearer("empty segments", ".."),
    _bearer("four segments", f"{forge()}.{CANARY}"),
    _bearer("no signature", _unsigned(forge())),
    _bearer("padding", f"{forge()}="),
    _bearer("byte 0xFF", f"{forge()}\xff"),
    _bearer("not ASCII", f"\xc3\xa9{forge()}"),
    malformed("more than 8 KB", fetch("/api/requests", token=forge(email="e" * 6200)), "not a valid HTTP"),
    _bearer("another secret", forge(secret="another secret, which is as long as it should be")),
    _bearer("empty secret", forge({"kid": "../../../../dev/null"}, secret="")),
    _bearer("changed payload", ".".join([forge().split(".")[0], forge(sub=NOBODYS).split(".")[1], "c2lnbmF0dXJl"])),
)

_JOSE_HEADERS = (
    _bearer("algorithm none", _unsigned(forge({"alg": "none"})) + "e30"),
    _bearer("algorithm nOnE", forge({"alg": "nOnE"})),
    _bearer("algorithm HS512", forge({"alg": "HS512"})),
    _bearer("algorithm RS256", forge({"alg": "RS256", "jwk": {"kty": "RSA", "n": "AQAB", "e": "AQAB"}})),
    _bearer("algorithm null", forge({"alg": None})),
    _bearer("algorithm as a list", forge({"alg": ["HS256"]})),
    _bearer("unknown critical header", forge({"crit": ["x"], "x": True})),
)

_PAYLOADS = (
    _bearer("expired", forge(iat=_NOW - 7200, exp=_NOW - 3600)),
    _bearer("no expiry", forge(exp=_ABSENT)),
    _bearer("expiry as text", forge(exp=str(_NOW + 3600))),
    _bearer("expiry as a float", forge(exp=_NOW + 3600.5)),
    _bearer("expiry of 400 digits", forge(exp=10**400)),
    _bearer("expiry that is infinite", forge(exp=float("inf"))),
    _bearer("expiry that is true", forge(exp=True)),
    _bearer("lives for a year", forge(exp=_NOW + 365 * 86_400)),
    _bearer("issued in the future", forge(iat=_NOW + 3600)),
    _bearer("issued at no time", forge(iat=None)),
    _bearer("not valid yet", forge(nbf=_NOW + 3600)),
    _bearer("another audience", forge(aud="authenticate")),
    _bearer("no audience", forge(aud=_ABSENT)),
    _bearer("another issuer", forge(iss="https://example.com/auth/v1")),
    _bearer("no subject", forge(sub=_ABSENT)),
    _bearer("subject that is no UUID", forge(sub="../x")),
    _bearer("subject with NUL", forge(sub=f"{_UUID}\0")),
    _bearer("subject with half a surrogate pair", forge(sub="\ud800")),
    _bearer("subject as a number", forge(sub=1)),
    _bearer("anonymous role", forge(role="anon")),
    _bearer("service role", forge(role="service_role")),
    _bearer("session that is no UUID", forge(session_id=CANARY)),
    _bearer("payload that is a list", _signed({"alg": "HS256"}, b"[]")),
    _bearer("payload that is not JSON", _signed({"alg": "HS256"}, CANARY.encode())),
    _bearer("payload that is not UTF-8", _signed({"alg": "HS256"}, b"\xff\xfe")),
    _bearer("payload that is deep", _signed({"alg": "HS256"}, b"[" * 4000)),
)

_SECRETS = (
    unauthenticated("wrong password", account("signin", sign_in()), "Invalid e-mail or password"),
    unauthenticated("impossible e-mail", account("signin", sign_in(email="\r\nBcc:x")), "Invalid e-mail or password"),
    unauthenticated("wrong refresh token", account("refresh", {"refresh_token": CANARY}), "refresh token is not valid"),
    unauthenticated("access token to refresh", account("refresh", {"refresh_token": forge()[:1000]}), "refresh token"),
)

TOKENS = (*_HEADERS, *_SHAPES, *_JOSE_HEADERS, *_PAYLOADS, *_SECRETS)
