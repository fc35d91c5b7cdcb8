"""Access tokens: what we mint is what Supabase would, and whatever else arrives is `Unauthenticated`, nothing worse."""

import base64
import hashlib
import hmac
import json
from typing import Any
from uuid import UUID, uuid4

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.auth import tokens
from server.auth.principal import Principal
from server.auth.tokens import (
    LEEWAY_S,
    MAX_LIFETIME_S,
    SigningKey,
    TokenMinter,
    TokenVerifier,
    bearer_token,
)
from server.errors import Unauthenticated
from server.model_request import UserId

NOW = 1_795_000_000
SECRET = "0123456789abcdef0123456789abcdef"
USER = UserId(UUID("6f1c2b8e-9d3a-4c55-8a77-0b8f3b1d2e4f"))
SESSION = UUID("0c9d8e7f-1a2b-4c3d-9e8f-7a6b5c4d3e2f")
PEM = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n"
GONE = object()

CLAIMS: dict[str, Any] = {
    "iss": "ai-sdk-server/auth/v1",
    "sub": str(USER),
    "aud": "authenticated",
    "exp": NOW + 600,
    "iat": NOW - 60,
    "email": "alice@example.com",
    "role": "authenticated",
    "session_id": str(SESSION),
}


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def craft(header: dict[str, Any], payload: bytes, key: bytes = SECRET.encode()) -> str:
    """A token signed by hand, so that nothing keeps us from making a bad one."""
    return sign(json.dumps(header).encode(), payload, key)


def sign(header: bytes, payload: bytes, key: bytes = SECRET.encode()) -> str:
    signed = f"{encode(header)}.{encode(payload)}"
    return f"{signed}.{encode(hmac.digest(key, signed.encode(), 'sha256'))}"


def with_claims(**changes: Any) -> str:
    """Correctly signed, with some claims changed or `GONE`."""
    claims = {name: value for name, value in (CLAIMS | changes).items() if value is not GONE}
    return craft({"alg": "HS256", "typ": "JWT"}, json.dumps(claims).encode())


def with_header(**header: Any) -> str:
    return craft({"alg": "HS256", "typ": "JWT"} | header, json.dumps(CLAIMS).encode())


def with_payload(payload: bytes) -> str:
    return craft({"alg": "HS256"}, payload)


def with_raw_claim(name: str, literal: str) -> str:
    """A claim written as JSON that `json.dumps` would not write."""
    claims = json.dumps(CLAIMS | {name: "here"}).replace('"here"', literal)
    return with_payload(claims.encode("utf-8", "surrogatepass"))


def signed_with(key: bytes, *, alg: str = "HS256", **header: Any) -> str:
    return craft({"alg": alg} | header, json.dumps(CLAIMS).encode(), key)


GOOD = with_claims()
HEAD, BODY, SIGNATURE = GOOD.split(".")
LAST = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

HOSTILE = {
    # the text itself
    "empty": "",
    "a word": "token",
    "an API key": "sb_publishable_abcdef",
    "two dots only": "..",
    "two segments": f"{HEAD}.{BODY}",
    "four segments": f"{GOOD}.{SIGNATURE}",
    "five segments, as a JWE": f"{GOOD}.x.y",
    "empty signature": f"{HEAD}.{BODY}.",
    "empty payload segment": f"{HEAD}..{SIGNATURE}",
    "a byte 0xFF, as aiohttp decodes it": f"\udcff.{BODY}.{SIGNATURE}",
    "a surrogate at the end": GOOD + "\udc80",
    "not ASCII": f"{HEAD}.{BODY}.é",
    "full-width letters": f"{HEAD}.{BODY}.\uff41\uff42",
    "NUL": GOOD + "\0",
    "percent NUL": GOOD + "%00",
    "trailing newline": GOOD + "\n",
    "trailing space": GOOD + " ",
    "leading space": " " + GOOD,
    "a tab inside": f"{HEAD}.\t{BODY}.{SIGNATURE}",
    "padding": GOOD + "=",
    "base64 that is not URL-safe": f"{HEAD}.{BODY}.ab+/",
    "quoted": f'"{GOOD}"',
    "too long, correctly signed": with_claims(extra="x" * 8192),
    "a megabyte": "a." + "b" * 1_000_000 + ".c",
    "non-canonical last character": GOOD[:-1] + LAST[LAST.index(GOOD[-1]) ^ 1],
    "signature of another token": f"{HEAD}.{BODY}.{with_claims(email='b@example.com').split('.')[2]}",
    "payload of another token": f"{HEAD}.{with_claims(sub=str(SESSION)).split('.')[1]}.{SIGNATURE}",
    "signature cut short": GOOD[:-8],
    "all-zero signature": f"{HEAD}.{BODY}.{encode(bytes(32))}",
    # keys and algorithms
    "another secret": signed_with(b"another secret of thirty-two bytes"),
    "empty secret": signed_with(b""),
    "a public PEM as the secret": signed_with(PEM.encode()),
    "a public JWK as the secret": signed_with(b'{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}'),
    "the secret with a newline": signed_with(SECRET.encode() + b"\n"),
    "alg none": signed_with(b"", alg="none"),
    "alg None": signed_with(b"", alg="None"),
    "alg NONE": signed_with(b"", alg="NONE"),
    "alg nOnE": signed_with(b"", alg="nOnE"),
    "alg hs256": with_header(alg="hs256"),
    "alg HS512": jwt.encode(CLAIMS, SECRET * 2, algorithm="HS512"),
    "alg RS256": with_header(alg="RS256"),
    "alg ES256, signature all zero": with_header(alg="ES256").rpartition(".")[0] + "." + encode(bytes(64)),
    "alg null": with_header(alg=None),
    "alg a number": with_header(alg=256),
    "alg a list": with_header(alg=["HS256"]),
    "alg empty": with_header(alg=""),
    "alg missing": craft({"typ": "JWT"}, json.dumps(CLAIMS).encode()),
    "jwk in the header": signed_with(b"mine", jwk={"kty": "oct", "k": encode(b"mine")}),
    "jku in the header": signed_with(b"mine", jku="http://127.0.0.1/keys"),
    "x5c in the header": signed_with(b"mine", x5c=["MIIB"]),
    "kid a path, empty key": signed_with(b"", kid="../../../../dev/null"),
    "kid SQL": signed_with(b"a", kid="' UNION SELECT 'a'--"),
    "kid a number": with_header(kid=1),
    "kid a list": with_header(kid=["a"]),
    "crit of a known name": with_header(crit=["exp"]),
    "crit unknown": with_header(crit=["x"], x=1),
    "crit not a list": with_header(crit="x"),
    "b64 false": with_header(b64=False, crit=["b64"]),
    # header and payload that are not what they should be
    "header not JSON": sign(b"{", json.dumps(CLAIMS).encode()),
    "header a list": sign(b"[]", json.dumps(CLAIMS).encode()),
    "header not UTF-8": sign(b'{"alg":"\xff"}', json.dumps(CLAIMS).encode()),
    "header nested deep": sign(b"[" * 3000, json.dumps(CLAIMS).encode()),
    "payload a list": with_payload(b"[]"),
    "payload a string": with_payload(b'"x"'),
    "payload a number": with_payload(b"1"),
    "payload null": with_payload(b"null"),
    "payload not JSON": with_payload(b"{"),
    "payload not UTF-8": with_payload(b'{"sub":"\xff"}'),
    "payload nested deep": with_payload(b'{"a":' * 1000 + b"1" + b"}" * 1000),
    "payload with an integer of 5000 digits": with_payload(b'{"exp":' + b"9" * 5000 + b"}"),
    # claims
    **{f"{name} missing": with_claims(**{name: GONE}) for name in ("exp", "iat", "sub", "aud", "iss", "role")},
    **{f"{name} null": with_claims(**{name: None}) for name in ("exp", "iat", "sub", "aud", "iss", "role")},
    "exp over": with_claims(exp=NOW - LEEWAY_S),
    "exp long over": with_claims(exp=0, iat=0),
    "exp negative": with_claims(exp=-1),
    "exp a word": with_claims(exp="abc"),
    "exp a numeric string": with_claims(exp=str(NOW + 600)),
    "exp a list": with_claims(exp=[]),
    "exp an object": with_claims(exp={}),
    "exp true": with_claims(exp=True),
    "exp a fraction": with_claims(exp=NOW + 600.5),
    "exp 10**400": with_claims(exp=10**400),
    "exp 1e308": with_raw_claim("exp", "1e308"),
    "exp Infinity": with_raw_claim("exp", "Infinity"),
    "exp NaN": with_raw_claim("exp", "NaN"),
    "exp later than any of ours": with_claims(exp=NOW - 60 + MAX_LIFETIME_S + 1),
    "iat in the future": with_claims(iat=NOW + LEEWAY_S + 1),
    "iat a string": with_claims(iat=str(NOW)),
    "iat a fraction": with_claims(iat=NOW - 0.5),
    "iat so old that the lifetime is too long": with_claims(iat=NOW - MAX_LIFETIME_S),
    "nbf in the future": with_claims(nbf=NOW + LEEWAY_S + 1),
    "iat in the future, nbf in the past": with_claims(iat=NOW + LEEWAY_S + 1, nbf=NOW - 60),
    "nbf null": with_claims(nbf=None),
    "nbf a string": with_claims(nbf="0"),
    "aud another": with_claims(aud="anon"),
    "aud a prefix": with_claims(aud="authenticate"),
    "aud a number": with_claims(aud=1),
    "aud an empty list": with_claims(aud=[]),
    "iss another server": with_claims(iss="https://project.supabase.co/auth/v1"),
    "iss a part of ours": with_claims(iss="ai-sdk-server"),
    "iss a list with ours": with_claims(iss=["ai-sdk-server/auth/v1"]),
    "sub empty": with_claims(sub=""),
    "sub a number": with_claims(sub=1),
    "sub not a UUID": with_claims(sub="alice"),
    "sub in braces": with_claims(sub=f"{{{USER}}}"),
    "sub as a URN": with_claims(sub=f"urn:uuid:{USER}"),
    "sub in upper case": with_claims(sub=str(USER).upper()),
    "sub without hyphens": with_claims(sub=USER.hex),
    "sub with a newline": with_claims(sub=f"{USER}\n"),
    "sub with NUL": with_claims(sub=f"{USER}\0"),
    "sub a lone surrogate": with_raw_claim("sub", '"\\ud800"'),
    "sub a path": with_claims(sub="../x"),
    "sub of 6 KB": with_claims(sub="a" * 5000),
    "role anon": with_claims(role="anon"),
    "role service_role": with_claims(role="service_role"),
    "role a list": with_claims(role=["authenticated"]),
    "session_id not a UUID": with_claims(session_id="x"),
    "session_id a number": with_claims(session_id=1),
}


@pytest.fixture
def verifier() -> TokenVerifier:
    return TokenVerifier(SigningKey(SECRET), clock=lambda: NOW)


@pytest.mark.parametrize("token", HOSTILE.values(), ids=HOSTILE.keys())
def test_anything_wrong_is_unauthenticated_with_the_same_words(verifier: TokenVerifier, token: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        verifier.verify(token)
    assert str(caught.value) == str(Unauthenticated())
    assert caught.value.__cause__ is None


def test_hostile_tokens_differ_from_a_good_one_in_one_thing_only(verifier: TokenVerifier) -> None:
    """What keeps the cases above honest: the token that all of them are made from is taken."""
    assert verifier.verify(GOOD) == Principal(user_id=USER, session_id=SESSION)
    assert len(HOSTILE) >= 60


@pytest.mark.parametrize(
    "token",
    [
        with_claims(aud=["anon", "authenticated"]),
        with_claims(exp=NOW - LEEWAY_S + 1),
        with_claims(iat=NOW + LEEWAY_S),
        with_claims(nbf=NOW),
        with_claims(exp=NOW - 60 + MAX_LIFETIME_S),
        with_header(kid="any"),
        with_header(jku="http://127.0.0.1/keys"),
    ],
    ids=["aud list", "just over", "clock ahead", "nbf", "longest life", "kid", "jku, but our key"],
)
def test_unusual_but_right_tokens_are_taken(verifier: TokenVerifier, token: str) -> None:
    assert verifier.verify(token).user_id == USER


@given(st.text(max_size=300))
def test_arbitrary_text_is_unauthenticated(text: str) -> None:
    with pytest.raises(Unauthenticated):
        TokenVerifier(SigningKey(SECRET), clock=lambda: NOW).verify(text)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_arbitrary_values_of_any_claim_raise_nothing_else(value: Any) -> None:
    verifier = TokenVerifier(SigningKey(SECRET), clock=lambda: NOW)
    for name in CLAIMS.keys() - {"email", "session_id"}:
        if value == CLAIMS[name] or (name == "aud" and value == [CLAIMS["aud"]]):
            continue
        with pytest.raises(Unauthenticated):
            verifier.verify(with_claims(**{name: [value]}))


def test_a_minted_token_carries_the_claims_of_supabase() -> None:
    token, expires_at = TokenMinter(SigningKey(SECRET), clock=lambda: NOW + 0.9).mint(USER, "a@b.co", SESSION)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert expires_at == NOW + 3600
    assert claims == {
        "iss": "ai-sdk-server/auth/v1",
        "sub": str(USER),
        "aud": "authenticated",
        "exp": expires_at,
        "iat": NOW,
        "email": "a@b.co",
        "phone": "",
        "app_metadata": {"provider": "email", "providers": ["email"]},
        "user_metadata": {},
        "role": "authenticated",
        "aal": "aal1",
        "amr": [{"method": "password", "timestamp": NOW}],
        "session_id": str(SESSION),
        "is_anonymous": False,
    }
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}


def test_the_signature_is_plain_hs256() -> None:
    token, _ = TokenMinter(SigningKey(SECRET), clock=lambda: NOW).mint(USER, "a@b.co", SESSION)
    signed, _, signature = token.rpartition(".")
    assert signature == encode(hmac.new(SECRET.encode(), signed.encode(), hashlib.sha256).digest())


def test_a_minted_token_is_taken_until_it_expires() -> None:
    now = float(NOW)
    key = SigningKey(SECRET)
    verifier = TokenVerifier(key, clock=lambda: now)
    token, expires_at = TokenMinter(key, clock=lambda: now).mint(USER, "a@b.co", SESSION)
    assert verifier.verify(token) == Principal(user_id=USER, session_id=SESSION)
    now = expires_at + LEEWAY_S
    with pytest.raises(Unauthenticated):
        verifier.verify(token)


def test_a_token_is_verified_once_and_remembered_by_the_whole_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [float(NOW)]
    key = SigningKey(SECRET)
    verifier = TokenVerifier(key, clock=lambda: clock[0])
    token, expires_at = TokenMinter(key, clock=lambda: clock[0]).mint(UserId(uuid4()), "a@example.com", uuid4())
    principal = verifier.verify(token)
    monkeypatch.setattr(jwt, "decode", None)
    assert verifier.verify(token) == principal
    with pytest.raises(Unauthenticated):
        verifier.verify(token[:-1] + ("A" if token[-1] != "A" else "B"))
    clock[0] = expires_at + LEEWAY_S
    with pytest.raises(Unauthenticated):
        verifier.verify(token)


def test_remembered_tokens_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_KNOWN_TOKENS", 3)
    key = SigningKey(SECRET)
    verifier = TokenVerifier(key, clock=lambda: NOW)
    minter = TokenMinter(key, clock=lambda: NOW)
    for _ in range(10):
        verifier.verify(minter.mint(UserId(uuid4()), "a@example.com", uuid4())[0])
    assert len(verifier._known) == 3


def test_before_the_key_is_known_no_token_is_valid_and_afterwards_it_is() -> None:
    key = SigningKey()
    verifier = TokenVerifier(key, clock=lambda: NOW)
    assert not key.is_known
    with pytest.raises(Unauthenticated):
        verifier.verify(GOOD)
    key.learn(SECRET)
    assert key.is_known
    assert verifier.verify(GOOD).user_id == USER


@pytest.mark.parametrize("claim", [GONE, None, 1, ["a"]])
def test_a_token_without_an_email_speaks_for_its_user_all_the_same(verifier: TokenVerifier, claim: object) -> None:
    assert verifier.verify(with_claims(email=claim)) == Principal(user_id=USER, session_id=SESSION)


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER  "])
def test_the_scheme_is_read_in_any_case(scheme: str) -> None:
    assert bearer_token([scheme + GOOD]) == GOOD


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [""],
        ["   "],
        ["Bearer"],
        ["Bearer "],
        ["Basic dXNlcjpwYXNz"],
        [f"Token {GOOD}"],
        [GOOD],
        [f"Bearer{GOOD}"],
        [f"Bearer {GOOD} {GOOD}"],
        [f"Bearer {GOOD}, Bearer {GOOD}"],
        [f"Bearer\t{GOOD}"],
        [f"Bearer {GOOD}", "Bearer x"],
        ["Bearer x", f"Bearer {GOOD}"],
        [f"Bearer {GOOD}", f"Bearer {GOOD}"],
    ],
)
def test_anything_but_one_bearer_header_is_unauthenticated(headers: list[str]) -> None:
    with pytest.raises(Unauthenticated) as caught:
        bearer_token(headers)
    assert caught.value.headers == {"WWW-Authenticate": "Bearer"}


def test_c7_clocks_may_differ_by_thirty_seconds(verifier: TokenVerifier) -> None:
    for claims in ({"iat": NOW + 15}, {"iat": NOW + 30}, {"exp": NOW - 29}, {"nbf": NOW + 30}):
        assert verifier.verify(with_claims(**claims)).user_id == USER
    for claims in ({"iat": NOW + 31}, {"exp": NOW - 30}):
        with pytest.raises(Unauthenticated):
            verifier.verify(with_claims(**claims))
