"""Every way a token can be wrong, for projects that sign with a secret, with ES256, with RS256, and that moved."""

import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from structlog.testing import capture_logs

from server.auth.issuers import project_issuers
from server.auth.key_set import KeySet
from server.auth.tokens import LEEWAY_S, MAX_PROJECT_LIFETIME_S, SigningKey, TokenVerifier
from server.errors import Unauthenticated, Unavailable
from tests.fakes.jwks import serve_keys
from tests.fakes.signers import Json, Signer, ec_signer, encode, rsa_signer, secret_signer

NOW = 1_795_000_000
USER = "6f1c2b8e-9d3a-4c55-8a77-0b8f3b1d2e4f"
SESSION = "0c9d8e7f-1a2b-4c3d-9e8f-7a6b5c4d3e2f"
SECRET_TEXT = "the legacy secret of the project, of forty characters or more"
GONE = object()

SECRET = secret_signer(SECRET_TEXT)
SECRET_WITH_KID = secret_signer(SECRET_TEXT, kid="6d1f2a3b-the-key-that-the-secret-was-moved-to")
ES = ec_signer("5b0c9a1e-es256")
RS = rsa_signer("9f8e7d6c-rs256")
STRANGER_ES = ec_signer(str(ES.kid))
STRANGER_RS = rsa_signer(str(RS.kid))
WEAK_RS = rsa_signer("weak", bits=1024)


@dataclass(frozen=True, slots=True)
class Project:
    """What a project signs with now; and what else it would take."""

    name: str
    signer: Signer
    secret: str | None = None
    published: tuple[Signer, ...] = ()


PROJECTS = (
    Project("secret", SECRET, SECRET_TEXT),
    Project("secret that has a kid", SECRET_WITH_KID, SECRET_TEXT),
    Project("ES256", ES, None, (ES,)),
    Project("RS256", RS, None, (RS,)),
    Project("moved from the secret to ES256", ES, SECRET_TEXT, (ES, RS)),
    Project("moved to ES256, an old token of the secret", SECRET, SECRET_TEXT, (ES, RS)),
    Project("moved from ES256 to RS256", RS, SECRET_TEXT, (ES, RS)),
)


def claims(issuer: str, **changes: Any) -> Json:
    """What Supabase Auth puts into a token, with some claims changed or `GONE`."""
    whole = {
        "iss": issuer,
        "sub": USER,
        "aud": "authenticated",
        "exp": NOW + 3600,
        "iat": NOW,
        "email": "alice@example.com",
        "phone": "",
        "app_metadata": {"provider": "email", "providers": ["email"]},
        "user_metadata": {"name": "Älice 😀"},
        "role": "authenticated",
        "aal": "aal1",
        "amr": [{"method": "password", "timestamp": NOW}],
        "session_id": SESSION,
        "is_anonymous": False,
    } | changes
    return {name: value for name, value in whole.items() if value is not GONE}


def literal(issuer: str, name: str, text: str) -> str:
    """A payload with one claim as `json.dumps` would not write it."""
    return json.dumps(claims(issuer, **{name: "here"})).replace('"here"', text)


OTHER_ISSUER = "https://auth.example.com/auth/v1"

GOOD_CHANGES: dict[str, Json] = {
    "iss missing": {"iss": GONE},
    "iss null": {"iss": None},
    "iss at Supabase, behind a custom domain": {"iss": "https://abc.supabase.co/auth/v1"},
    "iss with a slash at its end": {"iss": "https://abc.supabase.co/auth/v1/"},
    "iss without its path": {"iss": "https://abc.supabase.co"},
    "iss the one of SUPABASE_JWT_ISSUER": {"iss": OTHER_ISSUER},
    "as it comes": {},
    "aud a list with ours": {"aud": ["authenticated", "other"]},
    "just over, within the leeway": {"iat": NOW - 3600, "exp": NOW - LEEWAY_S + 1},
    "their clock ahead, within the leeway": {"iat": NOW + LEEWAY_S},
    "the longest life of a project": {"exp": NOW + MAX_PROJECT_LIFETIME_S},
    "nbf now": {"nbf": NOW},
    "no e-mail": {"email": GONE},
    "e-mail of another type": {"email": 1},
    "no session": {"session_id": GONE},
    "anonymous user": {"is_anonymous": True},
    "a custom claim": {"https://example.com/plan": {"tier": 3}},
    "no more than needed": dict.fromkeys(
        ("phone", "app_metadata", "user_metadata", "aal", "amr", "is_anonymous"), GONE
    ),
}

FOREIGN_ISSUERS: dict[str, Json] = {
    "iss another project": {"iss": "https://other.supabase.co/auth/v1"},
    "iss a longer name": {"iss": "https://abc.supabase.co.evil.example/auth/v1"},
    "iss our own accounts": {"iss": "ai-sdk-server/auth/v1"},
    "iss another port": {"iss": "http://127.0.0.1"},
    "iss empty": {"iss": ""},
    "iss supabase, as in the keys of old": {"iss": "supabase"},
}
"""Accepted of a public key of the project, which only the project can sign for; refused of a secret."""

BAD_CHANGES: dict[str, Json] = {
    **{f"{name} missing": {name: GONE} for name in ("sub", "aud", "exp", "iat", "role")},
    **{f"{name} null": {name: None} for name in ("sub", "aud", "exp", "iat", "role")},
    **{f"{name} an object": {name: {}} for name in ("iss", "sub", "aud", "exp", "iat", "role")},
    **{f"{name} true": {name: True} for name in ("iss", "sub", "aud", "exp", "iat", "role")},
    "aud anon": {"aud": "anon"},
    "aud a prefix": {"aud": "authenticate"},
    "aud empty": {"aud": ""},
    "aud an empty list": {"aud": []},
    "exp over": {"iat": NOW - 3600, "exp": NOW - LEEWAY_S},
    "exp in 1970": {"iat": 0, "exp": 1},
    "exp negative": {"exp": -1},
    "exp text": {"exp": str(NOW + 600)},
    "exp a fraction": {"exp": NOW + 600.5},
    "exp 10**400": {"exp": 10**400},
    "exp later than a project can have it": {"exp": NOW + MAX_PROJECT_LIFETIME_S + 1},
    "iat in the future": {"iat": NOW + LEEWAY_S + 1},
    "iat text": {"iat": str(NOW)},
    "nbf in the future": {"nbf": NOW + LEEWAY_S + 1},
    "nbf text": {"nbf": "0"},
    "sub empty": {"sub": ""},
    "sub a number": {"sub": 1},
    "sub no UUID": {"sub": "alice"},
    "sub in upper case": {"sub": USER.upper()},
    "sub in braces": {"sub": f"{{{USER}}}"},
    "sub with a newline": {"sub": f"{USER}\n"},
    "sub not ASCII": {"sub": USER.replace("6", "\uff16")},
    "role anon": {"role": "anon"},
    "role service_role": {"role": "service_role"},
    "role supabase_admin": {"role": "supabase_admin"},
    "role a list": {"role": ["authenticated"]},
    "session no UUID": {"session_id": "x"},
    "session a number": {"session_id": 1},
    "the anon key of old": {"iss": "supabase", "ref": "abc", "role": "anon", "sub": GONE, "aud": GONE, "exp": 2**31},
    "the service key of old": {"role": "service_role", "iss": "supabase", "sub": GONE, "aud": GONE, "exp": 2**31},
    "huge": {"user_metadata": {"bio": "x" * 9000}},
}

Payload = Callable[[str], str | bytes]

GOOD_PAYLOADS: dict[str, Payload] = {
    "a claim twice, the last one right": lambda issuer: literal(issuer, "sub", f'"x","sub":"{USER}"')
}
"""JSON has the last of two names count, in Go as here; who can sign such a token needs no trick."""

BAD_PAYLOADS: dict[str, Payload] = {
    "a claim twice, the last one wrong": lambda issuer: literal(issuer, "sub", f'"{USER}","sub":"x"'),
    "the role twice, the last one service_role": lambda issuer: literal(
        issuer, "role", '"authenticated","role":"service_role"'
    ),
    "exp twice, the last one over": lambda issuer: literal(issuer, "exp", f'{NOW + 60},"exp":1'),
    "exp Infinity": lambda issuer: literal(issuer, "exp", "Infinity"),
    "exp NaN": lambda issuer: literal(issuer, "exp", "NaN"),
    "exp 1e308": lambda issuer: literal(issuer, "exp", "1e308"),
    "sub half a surrogate pair": lambda issuer: literal(issuer, "sub", '"\\ud800"'),
    "a list": lambda _issuer: "[]",
    "null": lambda _issuer: "null",
    "no JSON": lambda _issuer: "{",
    "no UTF-8": lambda issuer: json.dumps(claims(issuer)).encode().replace(b"alice", b"\xff"),
    "deep": lambda _issuer: '{"a":' * 1000 + "1" + "}" * 1000,
    "empty": lambda _issuer: " ",
}


def good_headers(project: Project, issuer: str) -> dict[str, str]:
    signer, whole = project.signer, claims(issuer)
    return {
        "a URL of keys, of which nothing is thought": signer.token(whole, jku="http://127.0.0.1:9/jwks"),
        "a certificate, of which nothing is thought": signer.token(whole, x5c=["MIIB"]),
        "another type": signer.token(whole, typ="at+jwt"),
        "alg twice, the last one right": signer.seal(
            json.dumps(signer.header).replace('{"alg"', '{"alg": "none", "alg"'), whole
        ),
    }


def bad_headers(project: Project, issuer: str) -> dict[str, str]:
    signer, whole = project.signer, claims(issuer)
    good = signer.token(whole)
    head, body, signature = good.split(".")
    kid = signer.kid or "mine"
    stranger = {"ES256": STRANGER_ES, "RS256": STRANGER_RS, "HS256": secret_signer("another secret, as long as it is")}
    mine = secret_signer(b"mine", kid=kid)
    return {
        "alg none, no signature": signer.token(whole, alg="none").rpartition(".")[0] + ".",
        "alg none, a signature": signer.token(whole, alg="none"),
        "alg NoNe": signer.token(whole, alg="NoNe"),
        "alg missing": signer.token(whole, alg=None),
        "alg in small letters": signer.token(whole, alg=signer.algorithm.lower()),
        "alg a list": signer.token(whole, alg=[signer.algorithm]),
        "alg with 512 bits": signer.token(whole, alg=signer.algorithm.replace("256", "512")),
        "alg PS256": signer.token(whole, alg="PS256"),
        "alg EdDSA": signer.token(whole, alg="EdDSA"),
        "alg of another key": signer.token(whole, alg="ES256" if signer.algorithm != "ES256" else "RS256"),
        "alg twice, the last one none": signer.seal(json.dumps(signer.header)[:-1] + ', "alg": "none"}', whole),
        "alg HS256 by the public ES256 key": secret_signer(ES.pem, kid=ES.kid).token(whole),
        "alg HS256 by the public RS256 key": secret_signer(RS.pem, kid=RS.kid).token(whole),
        "alg HS256 by the public RS256 key, no kid": secret_signer(RS.pem).token(whole),
        "alg HS256 by the published key": secret_signer(json.dumps(ES.jwk), kid=ES.kid).token(whole),
        "alg HS256 by its coordinate": secret_signer(str((ES.jwk or {})["x"]), kid=ES.kid).token(whole),
        "alg RS256 said of an HS256 signature by the public key": secret_signer(RS.pem, kid=RS.kid).token(
            whole, alg="RS256"
        ),
        "alg HS256 by the empty secret": secret_signer(b"", kid=kid).token(whole),
        "alg ES256, a signature of zeros": f"{encode(json.dumps(ES.header).encode())}.{body}.{encode(bytes(64))}",
        "alg ES256, a signature in DER": ES.token(whole).rpartition(".")[0] + "." + encode(bytes([48, 6] * 4)),
        "another key of the same kid": stranger[signer.algorithm].token(whole),
        "kid unknown": ec_signer("never-published").token(whole),
        "kid unknown, RS256": STRANGER_RS.token(whole, kid="never-published-either"),
        "kid missing, an ES256 key": ES.token(whole, kid=None),
        "kid missing, an RS256 key": RS.token(whole, kid=None),
        "kid of the other key": ES.token(whole, kid=RS.kid),
        "kid of the other key, and its alg": ES.token(whole, kid=RS.kid, alg="RS256"),
        "kid a number": mine.token(whole, kid=1),
        "kid a list": mine.token(whole, kid=[kid]),
        "kid empty": mine.token(whole, kid=""),
        "kid a path": mine.token(whole, kid="../../../../../dev/null"),
        "kid SQL": mine.token(whole, kid="x' UNION SELECT 'mine'--"),
        "kid a URL": mine.token(whole, kid="http://127.0.0.1:9/key"),
        "kid with a newline": mine.token(whole, kid=f"{kid}\n"),
        "kid of 4 KB": mine.token(whole, kid="k" * 4096),
        "key in the header": STRANGER_ES.token(whole, kid="injected", jwk=STRANGER_ES.jwk),
        "key in the header, of a known kid": STRANGER_ES.token(whole, jwk=STRANGER_ES.jwk),
        "secret in the header": mine.token(whole, jwk={"kty": "oct", "k": encode(b"mine"), "kid": kid}),
        "URL of keys in the header": STRANGER_ES.token(whole, kid="elsewhere", jku="http://127.0.0.1:9/jwks"),
        "certificates in the header": STRANGER_RS.token(
            whole, kid="elsewhere", x5u="http://127.0.0.1:9/", x5c=["MIIB"]
        ),
        "crit": signer.token(whole, crit=["exp"]),
        "crit unknown": signer.token(whole, crit=["x"], x=1),
        "b64 false": signer.token(whole, b64=False, crit=["b64"]),
        "header a list": signer.seal("[]", whole),
        "header no JSON": signer.seal("{", whole),
        "header deep": signer.seal('{"a":' * 900 + "1" + "}" * 900, whole),
        "signature of another": f"{head}.{body}.{signer.token(claims(issuer, sub=SESSION)).split('.')[2]}",
        "payload of another": f"{head}.{signer.token(claims(issuer, sub=SESSION)).split('.')[1]}.{signature}",
        "signature cut": good[:-6],
        "signature missing": f"{head}.{body}.",
        "two parts": f"{head}.{body}",
        "four parts": f"{good}.{signature}",
        "padded": f"{good}=",
        "in base64 that is not for URLs": f"{head}.{body}.{base64.b64encode(bytes([255] * 64)).decode()}",
        "not ASCII": f"{head}.{body}.é",
        "half a surrogate pair": f"{good}\udc80",
        "a NUL": f"{good}\0",
        "a newline": f"{good}\n",
        "a megabyte": f"{head}.{'A' * 1_000_000}.{signature}",
        "a publishable key": "sb_publishable_0123456789abcdef_01234567",
        "a secret key": "sb_secret_0123456789abcdef_01234567",
    }


@asynccontextmanager
async def project_verifier(project: Project) -> AsyncIterator[tuple[TokenVerifier, str]]:
    """The verifier of the project's tokens, and the issuer that they name."""
    async with serve_keys(*project.published) as server:
        keys = KeySet(server.url)
        verifier = TokenVerifier(
            SigningKey(project.secret),
            issuers=project_issuers([server.base_url, OTHER_ISSUER], reference="abc"),
            max_lifetime_s=MAX_PROJECT_LIFETIME_S,
            public_keys=keys,
            clock=lambda: NOW,
        )
        try:
            yield verifier, server.base_url
        finally:
            await keys.close()


async def is_taken(verifier: TokenVerifier, token: str) -> bool:
    """Whether it speaks for the user; whatever else it raises is a fault."""
    try:
        return str((await verifier.identify(token)).user_id) == USER
    except (Unauthenticated, Unavailable):  # the latter: a key that is not known yet
        return False


@pytest.mark.parametrize("project", PROJECTS, ids=lambda project: project.name)
async def test_a_token_is_taken_or_refused_as_expected(project: Project) -> None:
    async with project_verifier(project) as (verifier, issuer):
        good = {name: project.signer.token(claims(issuer, **changes)) for name, changes in GOOD_CHANGES.items()}
        good |= {name: project.signer.token(payload(issuer)) for name, payload in GOOD_PAYLOADS.items()}
        good |= good_headers(project, issuer)
        bad = {name: project.signer.token(claims(issuer, **changes)) for name, changes in BAD_CHANGES.items()}
        bad |= {name: project.signer.token(payload(issuer)) for name, payload in BAD_PAYLOADS.items()}
        bad |= bad_headers(project, issuer)
        assert {name for name, token in good.items() if not await is_taken(verifier, token)} == set()
        assert {name for name, token in bad.items() if await is_taken(verifier, token)} == set()
        assert {name for name, token in good.items() if not await is_taken(verifier, token)} == set(), "a second time"
        assert len(good) + len(bad) >= 60


@pytest.mark.parametrize("project", PROJECTS, ids=lambda project: project.name)
async def test_c5_the_key_of_the_project_decides_and_not_the_issuer(project: Project) -> None:
    async with project_verifier(project) as (verifier, issuer):
        for spelling in (
            issuer,
            f"{issuer}/",
            issuer.removesuffix("/auth/v1"),
            "https://abc.supabase.co/auth/v1",
            GONE,
        ):
            assert await is_taken(verifier, project.signer.token(claims(issuer, iss=spelling))), spelling
        is_public = project.signer in project.published
        for name, changes in FOREIGN_ISSUERS.items():
            assert await is_taken(verifier, project.signer.token(claims(issuer, **changes))) == is_public, name


async def test_c5_the_log_says_why_a_token_is_refused_once_a_minute() -> None:
    async with project_verifier(PROJECTS[0]) as (verifier, issuer):
        with capture_logs() as logs:
            for _ in range(3):
                assert not await is_taken(verifier, SECRET.token(claims(issuer, iss="https://elsewhere.example")))
            assert not await is_taken(verifier, secret_signer("a stranger's").token(claims("https://noise.example")))
        refusals = [entry for entry in logs if entry["event"] == "token_refused"]
        assert [entry["iss"] for entry in refusals] == ["https://elsewhere.example"]
        assert "SUPABASE_JWT_ISSUER" in refusals[0]["fix"]


@pytest.mark.parametrize("issuer", ["https://abcdefghij.supabase.co/auth/v1", "https://abcdefghij.supabase.co", None])
def test_c5_without_a_known_reference_any_project_at_supabase_is_accepted(issuer: str | None) -> None:
    """With a custom domain and a database at another host, no setting names the project."""
    issuers = project_issuers(["https://api.example.com/auth/v1"])
    assert issuers.accept(issuer, has_public_key=False)
    assert issuers.accept("https://api.example.com", has_public_key=False)
    assert not issuers.accept("https://evil.example/auth/v1", has_public_key=False)


async def test_old_and_new_tokens_are_good_side_by_side() -> None:
    async with project_verifier(PROJECTS[4]) as (verifier, issuer):
        for signer in (SECRET, SECRET_WITH_KID, ES, RS):
            assert await is_taken(verifier, signer.token(claims(issuer)))


async def test_without_a_secret_no_hs256_token_is_good() -> None:
    async with project_verifier(PROJECTS[2]) as (verifier, issuer):
        for secret in (SECRET_TEXT, "", "None", str(ES.kid)):
            assert not await is_taken(verifier, secret_signer(secret).token(claims(issuer)))


@pytest.mark.parametrize(
    ("name", "jwk"),
    [
        ("too weak a key", WEAK_RS.jwk),
        ("a key for encryption", (WEAK_RS.jwk or {}) | {"use": "enc"}),
        ("a secret, which nobody may publish", {"kty": "oct", "k": encode(SECRET_TEXT.encode()), "kid": "weak"}),
    ],
)
async def test_a_published_key_that_is_not_for_this_verifies_nothing(name: str, jwk: Json) -> None:
    published = Signer("RS256", WEAK_RS.sign, "weak", jwk)
    async with project_verifier(Project(name, WEAK_RS, None, (ES, published))) as (verifier, issuer):
        assert not await is_taken(verifier, WEAK_RS.token(claims(issuer)))
        assert not await is_taken(verifier, secret_signer(SECRET_TEXT, kid="weak").token(claims(issuer)))
        assert await is_taken(verifier, ES.token(claims(issuer)))
