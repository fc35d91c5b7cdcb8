"""`/auth/v1`: the embedded accounts as Supabase Auth would answer, shape by shape and refusal by refusal."""

from typing import Any

import pytest

from server.auth.gotrue.gotrue_accounts import MAX_METADATA_BYTES
from tests.acceptance.conftest import PASSWORD, Api, Reply, Start

EMAIL = "alice@example.com"
CREDENTIALS = {"email": EMAIL, "password": PASSWORD}
NEWER = {"X-Supabase-Api-Version": "2024-01-01"}
USER_FIELDS = [
    "id", "aud", "role", "email", "email_confirmed_at", "phone", "confirmed_at", "last_sign_in_at", "app_metadata",
    "user_metadata", "identities", "created_at", "updated_at", "is_anonymous",
]  # fmt: skip


@pytest.fixture
async def stranger(start: Start) -> Api:
    return await start()


async def sign_up(api: Api, **fields: Any) -> Api:
    reply = await api.post("/auth/v1/signup", CREDENTIALS | fields)
    assert reply.status == 200, reply.body
    return Api(api.client, api.app, reply.json["access_token"], reply.json["user"]["id"])


def assert_refused(reply: Reply, status: int, code: str) -> None:
    """In the newer form, whose version is said with errors alone."""
    assert (reply.status, reply.json["code"]) == (status, code), reply.body
    assert reply.json["message"]
    assert reply.headers["X-Sb-Error-Code"] == code
    assert reply.headers["X-Supabase-Api-Version"] == "2024-01-01"


async def test_a_session_has_the_shape_of_gotrue(stranger: Api) -> None:
    reply = await stranger.post(
        "/auth/v1/signup", CREDENTIALS | {"data": {"name": "Alice"}, "gotrue_meta_security": {}}
    )
    assert reply.status == 200
    session = reply.json
    assert list(session) == ["access_token", "token_type", "expires_in", "expires_at", "refresh_token", "user"]
    assert (session["token_type"], session["expires_in"]) == ("bearer", 3600)
    assert list(session["user"]) == USER_FIELDS
    assert session["user"]["user_metadata"]["name"] == "Alice"
    assert session["user"]["created_at"].endswith("Z")
    again = await stranger.post("/auth/v1/token?grant_type=password", CREDENTIALS)
    assert list(again.json) == list(session)
    assert again.json["user"]["id"] == session["user"]["id"]


async def test_tokens_of_both_surfaces_are_the_same(stranger: Api) -> None:
    alice = await sign_up(stranger)
    assert (await alice.create("hello")).status == 200
    assert (await alice.get("/auth/user")).json["email"] == EMAIL
    there = (await stranger.post("/auth/signin", CREDENTIALS)).json
    bob = Api(stranger.client, stranger.app, there["token"])
    assert (await bob.get("/auth/v1/user")).json["id"] == alice.user_id
    refreshed = await stranger.post(
        "/auth/v1/token?grant_type=refresh_token", {"refresh_token": there["refresh_token"]}
    )
    assert refreshed.status == 200


BAD_SIGN_UPS: list[tuple[Any, int, str]] = [
    ({"email": EMAIL}, 400, "validation_failed"),
    ({"email": EMAIL, "password": "short"}, 422, "weak_password"),
    ({"email": EMAIL, "password": "x" * 200}, 400, "validation_failed"),
    ({"email": "nobody", "password": PASSWORD}, 400, "validation_failed"),
    ({"email": 5, "password": PASSWORD}, 400, "validation_failed"),
    ({"password": PASSWORD}, 422, "anonymous_provider_disabled"),
    ({}, 422, "anonymous_provider_disabled"),
    ({"phone": "+4912345", "password": PASSWORD}, 400, "phone_provider_disabled"),
    ({"phone": "+4912345", **CREDENTIALS}, 400, "validation_failed"),
    ({**CREDENTIALS, "data": []}, 400, "validation_failed"),
    ({**CREDENTIALS, "data": {"x": "y" * MAX_METADATA_BYTES}}, 400, "validation_failed"),
    ([], 400, "bad_json"),
]


@pytest.mark.parametrize(("body", "status", "code"), BAD_SIGN_UPS)
async def test_a_bad_sign_up_is_refused(stranger: Api, body: Any, status: int, code: str) -> None:
    assert_refused(await stranger.post("/auth/v1/signup", json=body, headers=NEWER), status, code)


async def test_a_weak_password_says_why_in_both_forms(stranger: Api) -> None:
    weak = {"email": EMAIL, "password": "short"}
    newer = await stranger.post("/auth/v1/signup", weak, headers=NEWER)
    older = await stranger.post("/auth/v1/signup", weak)
    assert newer.json["weak_password"] == older.json["weak_password"] == {"reasons": ["length"]}
    assert (older.json["code"], older.json["error_code"]) == (422, "weak_password")
    assert older.json["msg"] == newer.json["message"]
    assert "X-Supabase-Api-Version" not in older.headers


async def test_an_address_that_is_taken_is_refused(stranger: Api) -> None:
    await sign_up(stranger)
    assert_refused(await stranger.post("/auth/v1/signup", CREDENTIALS, headers=NEWER), 422, "user_already_exists")


@pytest.mark.parametrize(
    ("query", "body", "code"),
    [
        ("grant_type=password", {"email": EMAIL, "password": "wrong"}, "invalid_credentials"),
        ("grant_type=password", {"email": "nobody@example.com", "password": PASSWORD}, "invalid_credentials"),
        ("grant_type=password", {"email": EMAIL}, "invalid_credentials"),
        ("grant_type=refresh_token", {}, "validation_failed"),
        ("grant_type=refresh_token", {"refresh_token": "never-was-one"}, "refresh_token_not_found"),
        ("grant_type=id_token", CREDENTIALS, "invalid_credentials"),
        ("", CREDENTIALS, "invalid_credentials"),
    ],
)
async def test_a_bad_token_call_is_refused(stranger: Api, query: str, body: dict[str, str], code: str) -> None:
    await sign_up(stranger)
    assert_refused(await stranger.post(f"/auth/v1/token?{query}", body, headers=NEWER), 400, code)


@pytest.mark.parametrize(
    ("authorization", "status", "code"),
    [
        (None, 401, "no_authorization"),
        ("Bearer sb_publishable_x", 401, "no_authorization"),
        ("Bearer anon-key", 401, "no_authorization"),
        ("Basic abc", 401, "no_authorization"),
        ("Bearer a.b.c", 403, "bad_jwt"),
    ],
)
@pytest.mark.parametrize(("method", "path"), [("GET", "user"), ("PUT", "user"), ("POST", "logout")])
async def test_who_is_not_signed_in_is_told(
    stranger: Api, authorization: str | None, status: int, code: str, method: str, path: str
) -> None:
    headers = NEWER | {"apikey": "anon-key"} | ({} if authorization is None else {"Authorization": authorization})
    assert_refused(await stranger.send(method, f"/auth/v1/{path}", json={}, headers=headers), status, code)


async def test_a_key_sent_as_the_bearer_does_no_harm_where_nobody_has_to_be_signed_in(stranger: Api) -> None:
    reply = await stranger.post("/auth/v1/signup", CREDENTIALS, headers={"Authorization": "Bearer sb_publishable_x"})
    assert reply.status == 200


async def test_an_account_is_changed(stranger: Api) -> None:
    alice = await sign_up(stranger, data={"name": "Alice", "plan": {"tier": None}})
    elsewhere = await stranger.post("/auth/v1/token?grant_type=password", CREDENTIALS)
    changed = await alice.send(
        "PUT",
        "/auth/v1/user",
        json={"data": {"name": None, "age": 7}, "email": "New@Example.com", "password": "a new password"},
    )
    assert (changed.status, changed.json["email"]) == (200, "new@example.com")
    assert changed.json["user_metadata"]["age"] == 7
    assert changed.json["user_metadata"]["plan"] == {"tier": None}
    assert "name" not in changed.json["user_metadata"]
    assert (await alice.get("/auth/v1/user")).status == 200, "this session stays"
    other = Api(stranger.client, stranger.app, elsewhere.json["access_token"])
    assert_refused(await other.get("/auth/v1/user", headers=NEWER), 403, "session_not_found")
    entered = await stranger.post(
        "/auth/v1/token?grant_type=password", {"email": "new@example.com", "password": "a new password"}
    )
    assert entered.status == 200


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"password": PASSWORD}, 422, "same_password"),
        ({"password": "short"}, 422, "weak_password"),
        ({"password": "another one", "current_password": "wrong"}, 400, "current_password_invalid"),
        ({"email": "bob@example.com"}, 422, "email_exists"),
        ({"email": "nobody"}, 400, "validation_failed"),
        ({"phone": "+49123"}, 400, "phone_provider_disabled"),
        ({"data": 5}, 400, "validation_failed"),
        ({"data": {"x": "y" * MAX_METADATA_BYTES}}, 400, "validation_failed"),
    ],
)
async def test_a_bad_change_is_refused(stranger: Api, body: dict[str, Any], status: int, code: str) -> None:
    await sign_up(stranger, email="bob@example.com")
    alice = await sign_up(stranger)
    assert_refused(await alice.send("PUT", "/auth/v1/user", json=body, headers=NEWER), status, code)


@pytest.mark.parametrize(("scope", "here", "there"), [("local", 403, 200), ("others", 200, 403), ("global", 403, 403)])
async def test_sessions_end_by_scope(stranger: Api, scope: str, here: int, there: int) -> None:
    alice = await sign_up(stranger)
    other = await stranger.post("/auth/v1/token?grant_type=password", CREDENTIALS)
    assert (await alice.post(f"/auth/v1/logout?scope={scope}")).status == 204
    assert (await alice.get("/auth/v1/user")).status == here
    elsewhere = Api(stranger.client, stranger.app, other.json["access_token"])
    assert (await elsewhere.get("/auth/v1/user")).status == there
    assert (await (await sign_up(stranger, email="x@example.com")).post("/auth/v1/logout?scope=no")).status == 400


async def test_what_is_no_matter_of_accounts_has_the_same_shape(start: Start) -> None:
    api = await start(auth_rate_limit_per_minute=2)
    assert_refused(await api.get("/auth/v1/nothing", headers=NEWER), 404, "not_found")
    assert_refused(await api.get("/auth/v1/signup", headers=NEWER), 405, "not_found")
    broken = {"data": b"{", "headers": NEWER | {"Content-Type": "application/json"}}
    assert_refused(await api.send("POST", "/auth/v1/signup", **broken), 400, "bad_json")
    huge = {"email": "x" * 20_000}
    assert_refused(await api.post("/auth/v1/signup", huge, headers=NEWER), 413, "request_entity_too_large")
    limited = await api.post("/auth/v1/signup", CREDENTIALS, headers=NEWER)
    assert_refused(limited, 429, "over_request_rate_limit")
    assert "Retry-After" in limited.headers


async def test_what_anyone_may_see(stranger: Api) -> None:
    about = (await stranger.get("/auth/v1/settings")).json
    assert (about["external"]["email"], about["disable_signup"], about["mailer_autoconfirm"]) == (True, False, True)
    assert (await stranger.get("/auth/v1/health")).json["name"] == "ai-sdk-server"
    keys = await stranger.get("/auth/v1/.well-known/jwks.json")
    assert (keys.json, keys.headers["Cache-Control"]) == ({"keys": []}, "public, max-age=600")
    for email in (EMAIL, "not even one"):
        assert (await stranger.post("/auth/v1/recover", {"email": email})).json == {}


async def test_every_route_but_those_marked_public_needs_a_token(stranger: Api) -> None:
    routes = [
        route for route in stranger.app.router.routes() if route.resource and "/auth/v1/" in route.resource.canonical
    ]
    closed = {
        (route.method, route.resource.canonical)
        for route in routes
        if route.resource is not None
        and route.method not in {"HEAD", "OPTIONS"}
        and (await stranger.send(route.method, route.resource.canonical, json={})).json.get("error_code")
        == "no_authorization"
    }
    assert closed == {("GET", "/auth/v1/user"), ("PUT", "/auth/v1/user"), ("POST", "/auth/v1/logout")}


async def test_the_rate_of_a_user_is_limited_and_shown(start: Start) -> None:
    alice = await sign_up(await start(rate_limit_per_minute=1))  # ten reads a minute
    replies = [await alice.get("/auth/v1/user", headers=NEWER) for _ in range(12)]
    assert "RateLimit" in replies[0].headers
    assert_refused(replies[-1], 429, "over_request_rate_limit")
