"""Accounts over HTTP: the shapes of the contract, and that nothing a stranger sends is worth more than a 4xx."""

import asyncio
import json
import unicodedata
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from tests.acceptance.conftest import PASSWORD, Api, Reply, Start

EMAIL = "alice@example.com"
CREDENTIALS = {"email": EMAIL, "password": PASSWORD}
SESSION_FIELDS = {"token", "token_type", "expires_in", "expires_at", "refresh_token", "user"}
PATHS = ["/auth", "/api/auth"]


@pytest.fixture
async def stranger(start: Start) -> Api:
    """A server that nobody has signed up to."""
    return await start()


def assert_problem(reply: Reply, status: int, code: str, *fields: str) -> None:
    assert (reply.status, reply.json["code"]) == (status, code), reply.body
    assert reply.json.keys() - {"errors"} == {"error", "detail", "code", "request_id"}
    assert [item["field"] for item in reply.json.get("errors", [])] == list(fields)
    assert reply.headers["Content-Type"] == "application/json; charset=utf-8"


def assert_unauthenticated(reply: Reply, *, blames_token: bool = False) -> None:
    """RFC 6750, 3.1: the challenge names an error only where a token was sent."""
    assert_problem(reply, 401, "AUTH_ERROR")
    assert reply.headers["WWW-Authenticate"] == ('Bearer error="invalid_token"' if blames_token else "Bearer")


async def raw(api: Api, *lines: bytes) -> bytes:
    """What the server answers to these very bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.client.port)
    writer.write(b"\r\n".join([*lines, b"Host: localhost", b"Connection: close", b"", b""]))
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


# --- the way through ---


@pytest.mark.parametrize("prefix", PATHS)
async def test_an_account_from_its_beginning_to_its_end(stranger: Api, prefix: str) -> None:
    created = await stranger.post(f"{prefix}/signup", CREDENTIALS)
    assert created.status == 201
    assert created.json.keys() == {"message"} | SESSION_FIELDS
    assert created.json["user"].keys() == {"id", "email", "created_at", "last_sign_in_at"}
    assert created.headers["Cache-Control"] == "no-store"

    signed_in = await stranger.post(f"{prefix}/signin", CREDENTIALS)
    assert signed_in.status == 200
    assert signed_in.json.keys() == SESSION_FIELDS
    assert (signed_in.json["token_type"], signed_in.json["expires_in"]) == ("bearer", 3600)
    assert signed_in.json["user"]["id"] == created.json["user"]["id"]

    refreshed = await stranger.post(f"{prefix}/refresh", {"refresh_token": signed_in.json["refresh_token"]})
    assert refreshed.status == 200
    assert refreshed.json.keys() == SESSION_FIELDS

    alice = Api(stranger.client, stranger.app, refreshed.json["token"])
    assert (await alice.get(f"{prefix}/user")).json == signed_in.json["user"]
    assert (await alice.post(f"{prefix}/signout")).status == 204
    assert_unauthenticated(await stranger.post(f"{prefix}/refresh", {"refresh_token": refreshed.json["refresh_token"]}))
    assert_unauthenticated(await alice.get(f"{prefix}/user"), blames_token=True)
    alice.token = (await stranger.post(f"{prefix}/signin", CREDENTIALS)).json["token"]
    deleted = await alice.send("DELETE", f"{prefix}/user")
    assert (deleted.status, deleted.body) == (204, b"")
    assert_unauthenticated(await stranger.post(f"{prefix}/signin", CREDENTIALS))
    assert_unauthenticated(await alice.get(f"{prefix}/user"), blames_token=True)
    assert_unauthenticated(await alice.create("hello"), blames_token=True)


async def test_c1_an_address_with_blanks_around_it_is_the_address(start: Start) -> None:
    """Keyboards of phones add the blank."""
    stranger = await start(auth_rate_limit_per_minute=0)
    blank = {"email": f" {EMAIL} ", "password": PASSWORD}
    created = await stranger.post("/auth/signup", blank)
    assert (created.status, created.json["user"]["email"]) == (201, EMAIL)
    assert (await stranger.post("/auth/signin", blank)).status == 200
    assert (await stranger.post("/auth/recover", {"email": f"{EMAIL} "})).status == 200
    signed_in = await stranger.post("/auth/v1/token?grant_type=password", blank)
    assert signed_in.status == 200, signed_in.body
    alice = Api(stranger.client, stranger.app, signed_in.json["access_token"])
    assert (await alice.send("PUT", "/auth/v1/user", json={"email": "carol@example.com\u00a0"})).status == 200
    assert (await alice.get("/auth/v1/user")).json["email"] == "carol@example.com"
    other = await stranger.post("/auth/v1/signup", {"email": "bob@example.com ", "password": PASSWORD})
    assert other.json["user"]["email"] == "bob@example.com"


async def test_c4_a_password_is_the_same_in_both_normal_forms(start: Start) -> None:
    """A Mac sends one `é` as two characters, other systems as one."""
    stranger = await start(auth_rate_limit_per_minute=0)
    forms = [unicodedata.normalize(form, "né en été 1987") for form in ("NFC", "NFD")]
    for index, chosen in enumerate(forms):
        email = f"user{index}@example.com"
        assert (await stranger.post("/auth/signup", {"email": email, "password": chosen})).status == 201
        for sent in forms:
            body = {"email": email, "password": sent}
            assert (await stranger.post("/auth/signin", body)).status == 200
            assert (await stranger.post("/auth/v1/token?grant_type=password", body)).status == 200


async def test_a_second_account_with_the_address_is_a_conflict(stranger: Api) -> None:
    await stranger.sign_up(EMAIL)
    assert_problem(await stranger.post("/auth/signup", CREDENTIALS | {"email": "Alice@Example.com"}), 409, "CONFLICT")


async def test_of_fifty_sign_ups_over_http_one_wins_and_none_fails(stranger: Api, database: str) -> None:
    """More at once than there are places in the line of hashes: those are told to come back."""
    replies = await asyncio.gather(*(stranger.post("/auth/signup", CREDENTIALS) for _ in range(50)))
    statuses = sorted(reply.status for reply in replies)
    assert statuses.count(201) == 1
    assert set(statuses) <= {201, 409, 503}
    assert all("Retry-After" in reply.headers for reply in replies if reply.status == 503)
    connection = await asyncpg.connect(database)
    try:
        assert await connection.fetchval("SELECT count(*) FROM auth.users") == 1
    finally:
        await connection.close()


async def test_wrong_password_unknown_user_and_nonsense_get_one_answer(stranger: Api) -> None:
    await stranger.sign_up(EMAIL)
    answers = set()
    for email, password in ((EMAIL, "wrong horse battery"), ("bob@example.com", PASSWORD), ("x", "y"), ("", "")):
        reply = await stranger.post("/auth/signin", {"email": email, "password": password})
        assert_unauthenticated(reply)
        answers.add(json.dumps(reply.json | {"request_id": ""}))
    assert len(answers) == 1


async def test_recovery_answers_the_same_for_known_and_unknown(stranger: Api) -> None:
    await stranger.sign_up(EMAIL)
    known, unknown = [await stranger.post("/auth/recover", {"email": email}) for email in (EMAIL, "bob@example.com")]
    assert (known.status, unknown.status) == (200, 200)
    assert (
        known.json
        == unknown.json
        == {"message": "This server sends no e-mail: ask its operator to set a new password."}
    )


# --- bodies ---


BAD_SIGN_UPS: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["email", "password"]),
    ({"email": "nonsense", "password": "short"}, ["email", "password"]),
    ({"email": EMAIL}, ["password"]),
    ({"password": PASSWORD}, ["email"]),
    (CREDENTIALS | {"email": "a" * 250 + "@example.com"}, ["email"]),
    (CREDENTIALS | {"email": "a@b.co\nb"}, ["email"]),
    (CREDENTIALS | {"email": "a@localhost"}, ["email"]),
    (CREDENTIALS | {"email": "\u0430dmin@example.com"}, ["email"]),
    (CREDENTIALS | {"email": None}, ["email"]),
    (CREDENTIALS | {"email": ["alice@example.com"]}, ["email"]),
    (CREDENTIALS | {"email": "a\0@example.com"}, ["email"]),
    (CREDENTIALS | {"password": "1234567"}, ["password"]),
    (CREDENTIALS | {"password": "x" * 129}, ["password"]),
    (CREDENTIALS | {"password": "12345678\0"}, ["password"]),
    (CREDENTIALS | {"password": 12345678}, ["password"]),
    (CREDENTIALS | {"password": None}, ["password"]),
    (CREDENTIALS | {"password": {"$ne": ""}}, ["password"]),
    (CREDENTIALS | {"role": "service_role"}, ["role"]),
    (CREDENTIALS | {"id": "0", "is_admin": True}, ["id", "is_admin"]),
    (CREDENTIALS | {"app_metadata": {"role": "admin"}}, ["app_metadata"]),
]


async def test_everything_wrong_with_a_sign_up_is_named_at_once(stranger: Api) -> None:
    for body, fields in BAD_SIGN_UPS:
        reply = await stranger.post("/auth/signup", body)
        assert_problem(reply, 422, "VALIDATION_ERROR", *fields)
        assert b"12345678" not in reply.body


BAD_BODIES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("signin", {"email": EMAIL}, ["password"]),
    ("signin", {"email": 1, "password": 2}, ["email", "password"]),
    ("signin", CREDENTIALS | {"session_id": "mine"}, ["session_id"]),
    ("signin", CREDENTIALS | {"password": "x" * 2000}, ["password"]),
    ("signin", {"email": EMAIL, "password": "a\0"}, ["password"]),
    ("refresh", {}, ["refresh_token"]),
    ("refresh", {"refresh_token": ""}, ["refresh_token"]),
    ("refresh", {"refresh_token": 7}, ["refresh_token"]),
    ("refresh", {"refresh_token": "x" * 2000}, ["refresh_token"]),
    ("recover", {"email": "nonsense"}, ["email"]),
]


async def test_other_bodies_are_judged_by_field_too(stranger: Api) -> None:
    for path, body, fields in BAD_BODIES:
        assert_problem(await stranger.post(f"/auth/{path}", body), 422, "VALIDATION_ERROR", *fields)


NOT_SMALL_JSON = [
    (b"", "application/json", 400),
    (b"{", "application/json", 400),
    (b'{"email":"a@b.co","password":"\\ud800aaaaaaaa"}', "application/json", 400),
    (b'{"email":"\xff"}', "application/json", 400),
    (b"[]", "application/json", 422),
    (b"email=a@b.co&password=12345678", "application/x-www-form-urlencoded", 415),
    (json.dumps(CREDENTIALS).encode(), "text/plain", 415),
    (json.dumps(CREDENTIALS).encode("utf-16"), "application/json; charset=utf-16", 415),
    (json.dumps(CREDENTIALS | {"email": "x" * 5000}).encode(), "application/json", 413),
]


async def test_what_is_no_small_json_is_refused_before_anyone_reads_it(stranger: Api) -> None:
    for data, content_type, status in NOT_SMALL_JSON:
        for path in ("signup", "signin", "refresh", "recover"):
            reply = await stranger.post(f"/auth/{path}", data=data, headers={"Content-Type": content_type})
            assert (reply.status, reply.json["code"]) == (status, "VALIDATION_ERROR"), data


# --- credentials ---


PROTECTED = [
    ("POST", "/auth/signout"),
    ("GET", "/auth/user"),
    ("DELETE", "/auth/user"),
    ("POST", "/api/requests"),
    ("GET", "/api/requests"),
    ("GET", "/api/requests/01970000-0000-7000-8000-000000000000"),
]


async def test_no_route_of_a_user_opens_without_a_good_token(stranger: Api) -> None:
    good = (await stranger.sign_up()).token
    assert good is not None
    for method, path in PROTECTED:
        await assert_closed(stranger, method, path, good=good)


async def assert_closed(api: Api, method: str, path: str, *, good: str) -> None:
    for value in (
        None, "", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", f"Token {good}", good, f"Bearer {good}x",
        f"Bearer {good}=", f"Bearer {good} {good}", "Bearer a.b.c", "Bearer sb_publishable_x", "Bearer " + "a" * 8000,
    ):  # fmt: skip
        headers = {} if value is None else {"Authorization": value}
        sent = value is not None and value.strip().startswith("Bearer ")
        assert_unauthenticated(await api.send(method, path, headers=headers), blames_token=sent)
    for elsewhere in (f"{path}?access_token={good}", f"{path}?token={good}"):
        assert_unauthenticated(await api.send(method, elsewhere))
    assert_unauthenticated(await api.send(method, path, headers={"X-Api-Key": good, "Cookie": f"token={good}"}))


BAD_AUTHORIZATION = [
    [b"Bearer \xff.a.b"],
    [b"Bearer \xc3\xa9.a.b"],
    [b"Bearer a.b.\xed\xb3\xbf"],
    [b"\xff\xfe"],
    [b"Bearer {token}", b"Bearer x"],
    [b"Bearer x", b"Bearer {token}"],
    [b"Bearer {token}\tx"],
]


async def test_bytes_that_are_no_token_are_401_and_leave_no_traceback(api: Api) -> None:
    assert api.token is not None
    for values in BAD_AUTHORIZATION:
        lines = [b"Authorization: " + value.replace(b"{token}", api.token.encode()) for value in values]
        with capture_logs() as logs:
            answer = await raw(api, b"GET /auth/user HTTP/1.1", *lines)
        assert answer.startswith(b"HTTP/1.1 401 "), values
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "AUTH_ERROR"
        assert [entry["event"] for entry in logs] == ["http"]
        assert api.token not in str(logs)


async def test_the_log_holds_neither_passwords_nor_tokens(stranger: Api) -> None:
    with capture_logs() as logs:
        session = (await stranger.post("/auth/signup", CREDENTIALS)).json
        await stranger.post("/auth/signin", {"email": EMAIL, "password": "wrong horse battery"})
        refreshed = (await stranger.post("/auth/refresh", {"refresh_token": session["refresh_token"]})).json
        await Api(stranger.client, stranger.app, refreshed["token"]).get(f"/auth/user?token={refreshed['token']}")
    assert len(logs) >= 4
    secrets = (PASSWORD, "wrong horse", EMAIL, session["token"], session["refresh_token"], refreshed["token"])
    assert [secret for secret in secrets if secret in str(logs)] == []


async def test_a_token_of_one_server_is_good_on_every_server_of_the_database(start: Start) -> None:
    here, there = await start(), await start()
    alice = await here.sign_up(EMAIL)
    assert (await Api(there.client, there.app, alice.token).get("/auth/user")).json["id"] == alice.user_id


# --- limits ---


async def test_beyond_the_rate_an_address_is_told_when_to_come_back(start: Start) -> None:
    api = await start(auth_rate_limit_per_minute=3)
    for left in (2, 1, 0):
        reply = await api.post("/auth/signin", CREDENTIALS)
        assert_unauthenticated(reply)
        assert reply.headers["RateLimit-Policy"] == '"auth";q=3;w=60'
        assert reply.headers["RateLimit"].startswith(f'"auth";r={left};t=')
    for path in ("signup", "signin", "recover"):
        assert_problem(await api.post(f"/auth/{path}", CREDENTIALS), 429, "RATE_LIMITED")
    refused = await api.post("/auth/signup", CREDENTIALS)
    assert 1 <= int(refused.headers["Retry-After"]) <= 20
    assert refused.headers["RateLimit"] == f'"auth";r=0;t={refused.headers["Retry-After"]}'


async def test_c2_sign_ins_take_nothing_from_refreshes(start: Start) -> None:
    api = await start(auth_rate_limit_per_minute=3)
    session = (await api.post("/auth/signup", CREDENTIALS)).json
    while (await api.post("/auth/signin", CREDENTIALS)).status == 200:
        pass
    for _ in range(5):
        reply = await api.post("/auth/refresh", {"refresh_token": session["refresh_token"]})
        assert reply.status == 200, reply.body
        assert reply.headers["RateLimit-Policy"] == '"refresh";q=30;w=60'
        session = reply.json
        gotrue = await api.post("/auth/v1/token?grant_type=refresh_token", {"refresh_token": session["refresh_token"]})
        assert gotrue.status == 200, gotrue.body
        session = gotrue.json
    assert (await api.post("/auth/v1/token?grant_type=password", CREDENTIALS)).status == 429


async def test_c2_beyond_their_rate_refreshes_are_503_which_clients_retry(start: Start) -> None:
    """30 at once, then one every two seconds: 1,800 an hour. Both surfaces share the bucket."""
    api = await start(auth_rate_limit_per_minute=3)
    paths = ("/auth/refresh", "/auth/v1/token?grant_type=refresh_token")
    statuses = [(await api.post(paths[index % 2], {"refresh_token": "x"})).status for index in range(30)]
    assert set(statuses) == {401, 400}
    while (refused := await api.post(paths[0], {"refresh_token": "x"})).status == 401:
        assert len(statuses) < 60
        statuses.append(refused.status)
    assert_problem(refused, 503, "SERVER_ERROR")
    assert refused.headers["Retry-After"] in {"1", "2"}
    there = await api.post(paths[1], {"refresh_token": "x"})
    assert (there.status, there.headers["Retry-After"] in {"1", "2"}) == (503, True)
    assert_unauthenticated(await api.post("/auth/signin", CREDENTIALS))


async def test_who_is_signed_in_is_limited_as_a_user_and_not_by_address(start: Start) -> None:
    """Also in what fails before it is stored, whatever the method."""
    api = await (await start(auth_rate_limit_per_minute=1, rate_limit_per_minute=1)).sign_up()
    replies = [await api.get("/auth/user")]
    replies += [await api.post("/api/requests", {}) for _ in range(8)]
    replies += [await api.send("PUT", "/auth/v1/user", json={})]
    assert [reply.status for reply in replies] == [200, *[422] * 8, 200]
    assert replies[0].headers["RateLimit-Policy"] == replies[-1].headers["RateLimit-Policy"] == '"read";q=10;w=60'
    assert replies[-1].headers["RateLimit"].startswith('"read";r=0;')
    assert_problem(await api.post("/api/requests", {}), 429, "RATE_LIMITED")
