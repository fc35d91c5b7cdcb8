"""The whole server with accounts in a Supabase project: every answer of Supabase Auth, and what callers get."""

import asyncio
import json
import os
import sys
import unicodedata
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from server.auth.supabase import check_accounts
from server.http import keys
from server.settings import Settings
from tests.acceptance.conftest import PASSWORD, Api, Reply, Start
from tests.acceptance.test_auth import assert_problem, assert_unauthenticated
from tests.fakes.gotrue import (
    ANON,
    OLD_ANON,
    OLD_SERVICE,
    SECRET,
    SERVICE,
    GoTrueFake,
    Refusal,
    serve_gotrue,
)
from tests.fakes.signers import Signer, ec_signer
from tests.supabase import Project

EMAIL = "alice@example.com"
CREDENTIALS = {"email": EMAIL, "password": PASSWORD}
ROOT = Path(__file__).parents[2]


@pytest.fixture
async def gotrue(project: Project) -> AsyncIterator[GoTrueFake]:
    async with serve_gotrue(project.url) as fake:
        yield fake


def settings_of(project: Project, gotrue: GoTrueFake, **overrides: Any) -> dict[str, Any]:
    return {
        "database_url": project.url,
        "supabase_url": gotrue.url,
        "supabase_anon_key": ANON,
        "supabase_service_role_key": SERVICE,
        "supabase_jwt_secret": SECRET,
        **overrides,
    }


@pytest.fixture
async def api(start: Start, project: Project, gotrue: GoTrueFake) -> Api:
    """A server on a new project that nobody has signed up to."""
    return await start(**settings_of(project, gotrue))


def signed_in(api: Api, reply: Reply) -> Api:
    return Api(api.client, api.app, reply.json["token"], reply.json["user"]["id"])


async def test_an_api_key_of_an_account_in_supabase_works_until_the_account_is_deleted(api: Api) -> None:
    user = signed_in(api, await api.post("/api/auth/signup", CREDENTIALS))
    key = (await user.post("/api/keys", {"name": "job", "scopes": ["create", "read"]})).json["key"]
    program = Api(api.client, api.app, key)
    assert (await program.create()).json["user_id"] == user.user_id
    assert len((await program.get("/api/requests")).json) == 1
    assert_problem(await program.get("/auth/user"), 403, "AUTH_ERROR")
    assert (await user.send("DELETE", "/auth/user")).status == 204
    assert_unauthenticated(await program.get("/api/requests"), blames_token=True)


async def test_an_account_from_its_beginning_to_its_end(api: Api, gotrue: GoTrueFake) -> None:
    created = await api.post("/api/auth/signup", CREDENTIALS)
    assert created.status == 201
    assert created.json["message"] == "Account created."
    entered = await api.post("/auth/signin", {"email": "Alice@Example.com", "password": PASSWORD})
    assert entered.status == 200
    assert entered.json.keys() == {"token", "token_type", "expires_in", "expires_at", "refresh_token", "user"}
    alice = signed_in(api, entered)
    assert (await alice.get("/auth/user")).json["email"] == EMAIL
    done = await alice.create("hello")
    assert (done.status, done.json["status"], done.json["user_id"]) == (200, "completed", alice.user_id)
    assert [item["id"] for item in (await alice.get("/api/requests")).json] == [done.json["id"]]
    refreshed = await api.post("/auth/refresh", {"refresh_token": entered.json["refresh_token"]})
    assert refreshed.status == 200
    again = signed_in(api, refreshed)
    assert (await again.post("/auth/signout")).status == 204
    assert_unauthenticated(await again.get("/auth/user"), blames_token=True)
    assert_unauthenticated(await again.post("/auth/signout"), blames_token=True)
    last = signed_in(api, await api.post("/auth/signin", CREDENTIALS))
    assert (await last.send("DELETE", "/auth/user")).status == 204
    assert gotrue.accounts == {}
    assert_unauthenticated(await api.post("/auth/signin", CREDENTIALS))
    assert_unauthenticated(await last.create("hello"), blames_token=True)


async def test_a_new_address_is_confirmed_first(api: Api, gotrue: GoTrueFake) -> None:
    gotrue.autoconfirm = False
    first = await api.post("/api/auth/signup", CREDENTIALS)
    assert (first.status, first.json["user"]) == (200, {"email": EMAIL})
    assert "check your email" in first.json["message"]
    assert_problem(await api.post("/auth/signin", CREDENTIALS), 403, "AUTH_ERROR")
    gotrue.accounts[EMAIL].is_confirmed = True
    assert (await api.post("/auth/signin", CREDENTIALS)).status == 200
    taken = await api.post("/api/auth/signup", CREDENTIALS | {"password": "something else entirely"})
    assert (taken.status, taken.json) == (first.status, first.json), "it is not told whose address is taken"


async def test_an_address_that_is_taken_is_a_conflict_where_the_project_says_so(api: Api) -> None:
    await api.post("/api/auth/signup", CREDENTIALS)
    assert_problem(await api.post("/api/auth/signup", CREDENTIALS), 409, "CONFLICT")


@pytest.mark.parametrize("form", ["by header", "initial"])
async def test_a_weak_password_is_refused_with_its_reasons(api: Api, gotrue: GoTrueFake, form: str) -> None:
    gotrue.error_form, gotrue.min_length = form, 40
    reply = await api.post("/api/auth/signup", CREDENTIALS)
    assert_problem(reply, 422, "VALIDATION_ERROR", "password")
    assert "at least 40 characters" in reply.json["detail"]
    assert reply.json["errors"][0]["message"] == "is too short"


async def test_a_refresh_token_works_once(api: Api) -> None:
    created = (await api.post("/api/auth/signup", CREDENTIALS)).json
    token = {"refresh_token": created["refresh_token"]}
    assert (await api.post("/auth/refresh", token)).status == 200
    assert_unauthenticated(await api.post("/auth/refresh", token))


async def test_recovery_says_the_same_of_every_address(api: Api, gotrue: GoTrueFake) -> None:
    await gotrue.add(EMAIL, PASSWORD)
    replies = [await api.post("/auth/recover", {"email": email}) for email in (EMAIL, EMAIL, "nobody@example.com")]
    assert [reply.status for reply in replies] == [200] * 3, "one that was sent a moment ago is told to nobody"
    assert len({reply.body for reply in replies}) == 1
    assert gotrue.mails == [("recovery", EMAIL)]


REFUSALS = {
    "wrong password": (Refusal(400, "invalid_credentials", "Invalid login credentials"), 401, "AUTH_ERROR"),
    "not confirmed": (Refusal(400, "email_not_confirmed", "Email not confirmed"), 403, "AUTH_ERROR"),
    "banned": (Refusal(400, "user_banned", "User is banned"), 403, "AUTH_ERROR"),
    "rate": (Refusal(429, "over_request_rate_limit", "Request rate limit reached"), 429, "RATE_LIMITED"),
    "broken": (Refusal(500, "unexpected_failure", "Unexpected failure, please check server logs"), 503, "SERVER_ERROR"),
    "too slow": (Refusal(504, "request_timeout", "Processing this request timed out"), 503, "SERVER_ERROR"),
    "captcha": (Refusal(400, "captcha_failed", "captcha protection: request disallowed"), 503, "SERVER_ERROR"),
    "switched off": (Refusal(422, "email_provider_disabled", "Email logins are disabled"), 503, "SERVER_ERROR"),
    "a code of next year": (Refusal(400, "moon_phase_wrong", "Not tonight"), 403, "AUTH_ERROR"),
}


@pytest.mark.parametrize("form", ["by header", "initial"])
@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS.keys())
async def test_a_refusal_is_passed_on_as_one_of_ours(
    api: Api, gotrue: GoTrueFake, form: str, case: tuple[Refusal, int, str]
) -> None:
    gotrue.fault, status, code = case
    gotrue.error_form = form
    reply = await api.post("/auth/signin", CREDENTIALS)
    assert_problem(reply, status, code)
    assert ("Retry-After" in reply.headers) == (status in {429, 503})
    assert "supabase" not in reply.body.decode().lower()


async def test_a_server_from_before_error_codes_is_understood(api: Api, gotrue: GoTrueFake) -> None:
    gotrue.error_form = "oauth"
    assert_unauthenticated(await api.post("/auth/signin", CREDENTIALS))
    gotrue.fault = Refusal(400, "x", "Email not confirmed")
    assert_problem(await api.post("/auth/signin", CREDENTIALS), 403, "AUTH_ERROR")


async def test_an_email_limit_says_when_to_come_back(api: Api, gotrue: GoTrueFake) -> None:
    words = "For security purposes, you can only request this after 42 seconds."
    gotrue.fault = Refusal(429, "over_email_send_rate_limit", words)
    reply = await api.post("/api/auth/signup", CREDENTIALS)
    assert_problem(reply, 429, "RATE_LIMITED")
    assert reply.headers["Retry-After"] == "42"


STRANGE: dict[str, Callable[[GoTrueFake], None]] = {
    "HTML": lambda fake: setattr(fake, "fault", web.Response(status=502, body=b"<html>Bad gateway</html>")),
    "paused": lambda fake: setattr(fake, "fault", web.Response(status=540, body=b'{"message":"project paused"}')),
    "success that is HTML": lambda fake: setattr(fake, "fault", web.Response(body=b"<html>Welcome</html>")),
    "success without a user": lambda fake: setattr(fake, "fault", web.json_response({"access_token": "x"})),
    "a way elsewhere": lambda fake: setattr(fake, "fault", web.Response(status=307, headers={"Location": "/x"})),
    "two megabytes": lambda fake: setattr(fake, "fault", web.Response(body=b" " * 2**21)),
    "a dropped connection": lambda fake: setattr(fake, "drops", True),
    "another key": lambda fake: setattr(fake, "service_keys", ()),
}


@pytest.mark.parametrize("make_strange", STRANGE.values(), ids=STRANGE.keys())
async def test_a_fault_of_the_project_is_503_and_the_log_says_what_to_do(
    api: Api, gotrue: GoTrueFake, make_strange: Callable[[GoTrueFake], None]
) -> None:
    make_strange(gotrue)
    with capture_logs() as logs:
        replies = [await api.post("/auth/signin", CREDENTIALS) for _ in range(3)]
    for reply in replies:
        assert_problem(reply, 503, "SERVER_ERROR")
        assert int(reply.headers["Retry-After"]) >= 1
    [entry] = [entry for entry in logs if entry["event"].startswith("supabase_auth_")]
    assert len(entry["fix"]) > 20, "once, not three times"
    assert PASSWORD not in str(logs)
    assert SERVICE not in str(logs)


async def test_nobody_at_the_address_is_503(start: Start, project: Project, gotrue: GoTrueFake) -> None:
    api = await start(**settings_of(project, gotrue, supabase_url="http://127.0.0.1:9"))
    assert_problem(await api.post("/auth/signin", CREDENTIALS), 503, "SERVER_ERROR")


@pytest.mark.parametrize(("anon", "service"), [(ANON, SERVICE), (OLD_ANON, OLD_SERVICE), (OLD_ANON, SERVICE)])
async def test_old_and_new_keys_go_where_they_belong(
    start: Start, project: Project, gotrue: GoTrueFake, anon: str, service: str
) -> None:
    api = await start(**settings_of(project, gotrue, supabase_anon_key=anon, supabase_service_role_key=service))
    alice = signed_in(api, await api.post("/api/auth/signup", CREDENTIALS))
    assert (await alice.get("/auth/user")).status == 200
    assert (await alice.send("DELETE", "/auth/user")).status == 204
    sent = [call for call in gotrue.calls if not call.path.endswith("jwks.json")]
    assert all(not call.headers.get("Authorization", "").startswith("Bearer sb_") for call in sent)
    assert all(call.headers["X-Supabase-Api-Version"] == "2024-01-01" for call in sent)
    is_new_secret = service.startswith("sb_secret_")
    assert ("Sb-Forwarded-For" in sent[0].headers) == is_new_secret, "only these keys may name the client"


async def test_without_a_service_key_accounts_cannot_be_deleted(
    start: Start, project: Project, gotrue: GoTrueFake
) -> None:
    api = await start(**settings_of(project, gotrue, supabase_service_role_key=None))
    alice = signed_in(api, await api.post("/api/auth/signup", CREDENTIALS))
    await alice.create()
    assert_problem(await alice.send("DELETE", "/auth/user"), 403, "AUTH_ERROR")
    assert (await alice.get("/auth/user")).status == 200
    assert len((await alice.get("/api/requests")).json) == 1, "nothing of it has gone"


async def test_a_project_that_signs_with_public_keys_needs_no_secret(
    start: Start, project: Project, gotrue: GoTrueFake
) -> None:
    gotrue.signer = ec_signer("first")
    gotrue.published = (gotrue.signer,)
    api = await start(**settings_of(project, gotrue, supabase_jwt_secret=None))
    alice = signed_in(api, await api.post("/api/auth/signup", CREDENTIALS))
    assert (await alice.create("hello")).status == 200


async def test_our_own_limit_stands_before_theirs(start: Start, project: Project, gotrue: GoTrueFake) -> None:
    api = await start(**settings_of(project, gotrue, auth_rate_limit_per_minute=3))
    replies = [await api.post("/auth/signin", CREDENTIALS) for _ in range(5)]
    assert [reply.status for reply in replies] == [401, 401, 401, 429, 429]
    assert sum(call.path.endswith("/token") for call in gotrue.calls) == 3


@pytest.mark.parametrize(
    ("break_it", "code", "words"),
    [
        (lambda _: None, 0, "accepts both keys, signs up at once"),
        (lambda fake: setattr(fake, "autoconfirm", False), 0, "confirms new addresses by e-mail"),
        (lambda fake: setattr(fake, "anon_keys", ()), 7, "SUPABASE_ANON_KEY"),
        (lambda fake: setattr(fake, "service_keys", ()), 7, "SUPABASE_SERVICE_ROLE_KEY"),
        (lambda fake: setattr(fake, "email_enabled", False), 7, "switch it on"),
        (lambda fake: setattr(fake, "fault", web.Response(body=b"<html>")), 7, "SUPABASE_URL"),
    ],
    ids=["well", "by e-mail", "anon key", "service key", "no e-mail", "elsewhere"],
)
async def test_doctor_looks_at_the_accounts(
    tmp_path: Path, project: Project, gotrue: GoTrueFake, break_it: Callable[[GoTrueFake], None], code: int, words: str
) -> None:
    break_it(gotrue)
    settings = settings_of(project, gotrue, inference_backend="offline", data_dir=str(tmp_path))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "server",
        "doctor",
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]} | {name.upper(): value for name, value in settings.items()},
        stdout=asyncio.subprocess.PIPE,
    )
    said = (await asyncio.wait_for(process.communicate(), 60))[0].decode()
    assert (process.returncode, words in said) == (code, True), said
    assert SERVICE not in said


async def test_c2_the_rate_of_the_project_signs_no_user_out(start: Start, project: Project, gotrue: GoTrueFake) -> None:
    api = await start(**settings_of(project, gotrue))
    gotrue.fault = Refusal(429, "over_request_rate_limit", "Request rate limit reached")
    reply = await api.post("/auth/refresh", {"refresh_token": "any"})
    assert_problem(reply, 503, "SERVER_ERROR")
    assert reply.headers["Retry-After"] == "10"


async def test_c4_a_password_is_tried_in_nfc_and_then_as_it_was_sent(
    start: Start, project: Project, gotrue: GoTrueFake
) -> None:
    api = await start(**settings_of(project, gotrue))
    composed, decomposed = (unicodedata.normalize(form, "né en été 1987") for form in ("NFC", "NFD"))
    await gotrue.add("nfc@example.com", composed)
    await gotrue.add("nfd@example.com", decomposed)
    for email in ("nfc@example.com", "nfd@example.com"):
        assert (await api.post("/auth/signin", {"email": email, "password": decomposed})).status == 200
    assert (await api.post("/auth/signup", {"email": EMAIL, "password": decomposed})).status == 201
    assert (await api.post("/auth/signin", {"email": EMAIL, "password": composed})).status == 200
    gotrue.calls.clear()
    assert (await api.post("/auth/signin", {"email": EMAIL, "password": "wrong"})).status == 401
    assert len(gotrue.calls) == 1


async def test_c8_doctor_names_a_key_that_cannot_be_used(project: Project, gotrue: GoTrueFake) -> None:
    jwk = {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    gotrue.published = (ec_signer("good"), Signer("EdDSA", lambda _: b"", "ed", jwk))
    text = await check_accounts(Settings(**settings_of(project, gotrue)))
    assert "Tokens of these public keys are refused: ed (OKP Ed25519)." in text
    gotrue.published = gotrue.published[:1]
    assert "refused" not in await check_accounts(Settings(**settings_of(project, gotrue)))


@pytest.fixture
def users(project: Project, gotrue: GoTrueFake, tmp_path: Path) -> Callable[..., Any]:
    """`python -m server users`: the exit code, and what was printed where it says so."""

    async def run(*arguments: str, **overrides: Any) -> tuple[int, str]:
        settings = settings_of(project, gotrue, data_dir=str(tmp_path), **overrides)
        environment = {name.upper(): value for name, value in settings.items() if value is not None}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server", "users", *arguments),
            cwd=ROOT,
            env={"PATH": os.environ["PATH"]} | environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode or 0, (out if process.returncode == 0 else err).decode()

    return run


async def test_a_suspension_is_ours_at_once_and_a_ban_there(
    api: Api, gotrue: GoTrueFake, users: Callable[..., Any]
) -> None:
    await api.post("/api/auth/signup", CREDENTIALS)
    entered = await api.post("/auth/signin", CREDENTIALS)
    alice = signed_in(api, entered)
    assert (await alice.get("/auth/user")).status == 200
    assert (await users("suspend", EMAIL))[0] == 0
    assert gotrue.accounts[EMAIL].is_banned
    await api.app[keys.REVOCATIONS].publish()
    assert_unauthenticated(await alice.create("hello"), blames_token=True)
    assert_problem(await api.post("/auth/signin", CREDENTIALS), 403, "AUTH_ERROR")
    refused = await api.post("/auth/refresh", {"refresh_token": entered.json["refresh_token"]})
    assert_problem(refused, 403, "AUTH_ERROR")
    assert "suspended" in refused.json["detail"]

    assert (await users("restore", EMAIL))[0] == 0
    await api.app[keys.REVOCATIONS].publish()
    assert (await alice.create("hello")).status == 200
    assert (await api.post("/auth/signin", CREDENTIALS)).status == 200

    code, listed = await users("list", "--json", supabase_service_role_key=None)
    assert (code, [row["email"] for row in json.loads(listed)]) == (0, [EMAIL])
    assert (await users("delete", EMAIL, "--yes"))[0] == 0
    await api.app[keys.REVOCATIONS].publish()
    assert gotrue.accounts == {}
    assert_unauthenticated(await alice.get("/auth/user"), blames_token=True)


async def test_supabase_sends_the_invites(gotrue: GoTrueFake, users: Callable[..., Any]) -> None:
    assert (await users("invite", EMAIL))[0] == 0
    assert gotrue.mails == [("invite", EMAIL)]
    code, said = await users("invite", EMAIL)
    assert (code, "already been registered" in said) == (1, True), said


async def test_the_commands_name_what_is_wrong_with_the_service_key(
    gotrue: GoTrueFake, users: Callable[..., Any]
) -> None:
    code, said = await users("invite", EMAIL, supabase_service_role_key=None)
    assert (code, "SUPABASE_SERVICE_ROLE_KEY is not set" in said) == (2, True), said
    gotrue.service_keys = ()
    code, said = await users("invite", EMAIL)
    assert (code, "rejects SUPABASE_SERVICE_ROLE_KEY" in said) == (1, True), said


async def test_the_sign_out_of_a_session_ends_its_access_token(api: Api) -> None:
    await api.post("/api/auth/signup", CREDENTIALS)
    first, second = [signed_in(api, await api.post("/auth/signin", CREDENTIALS)) for _ in range(2)]
    assert (await first.post("/auth/signout")).status == 204
    assert_unauthenticated(await first.get("/api/requests"), blames_token=True)
    assert (await second.get("/api/requests")).status == 200
