"""SIGN_UPS decides who can create an account; a limit for each day and a list of common passwords hold as well."""

from typing import Any
from uuid import UUID

import pytest

from server.auth.invites import hash_code, new_code
from server.http import keys
from tests.acceptance.conftest import PASSWORD, Api, Start
from tests.acceptance.test_auth import assert_problem

EMAIL = "alice@example.com"
CREDENTIALS = {"email": EMAIL, "password": PASSWORD}
PROXY = {"trusted_proxies": "127.0.0.1"}


async def invite(api: Api, email: str = EMAIL, *, days: float = 7) -> str:
    code = new_code()
    await api.app[keys.READER].fetch("create_invite", email, hash_code(code), days * 86_400)
    return code


def seen_from(address: str) -> dict[str, str]:
    return {"X-Forwarded-For": address}


async def test_closed_is_closed_also_with_an_invite(start: Start) -> None:
    api = await start(sign_ups="closed")
    code = await invite(api)
    reply = await api.post("/auth/signup", CREDENTIALS | {"invite": code})
    assert_problem(reply, 403, "AUTH_ERROR")
    assert "switched them off" in reply.json["detail"]
    gotrue = await api.post("/auth/v1/signup", CREDENTIALS | {"data": {"invite": code}})
    assert (gotrue.status, gotrue.json["error_code"]) == (422, "signup_disabled")
    assert (await api.get("/auth/v1/settings")).json["disable_signup"] is True
    assert (await api.get("/health")).json["sign_ups"] == "closed"


async def test_without_a_setting_a_database_of_ones_own_asks_for_invites(start: Start) -> None:
    api = await start(sign_ups=None)
    reply = await api.post("/auth/signup", CREDENTIALS)
    assert_problem(reply, 403, "AUTH_ERROR")
    assert "`invite`" in reply.json["detail"]
    assert (await api.get("/health")).json["sign_ups"] == "invite"
    assert (await api.get("/auth/v1/settings")).json["disable_signup"] is False


async def test_an_invite_is_for_one_address_and_works_once(start: Start) -> None:
    api = await start(sign_ups="invite")
    code = await invite(api)
    for body in (
        CREDENTIALS | {"email": "bob@example.com", "invite": code},
        CREDENTIALS | {"invite": new_code()},
        CREDENTIALS | {"invite": ""},
    ):
        assert_problem(await api.post("/auth/signup", body), 403, "AUTH_ERROR")
    written = code.lower().replace("-", " ")
    created = await api.post("/auth/signup", CREDENTIALS | {"invite": written})
    assert created.status == 201, created.body
    assert_problem(await api.post("/auth/signup", CREDENTIALS | {"invite": code}), 403, "AUTH_ERROR")
    user = Api(api.client, api.app, created.json["token"])
    assert (await user.send("DELETE", "/auth/user")).status == 204
    assert_problem(await api.post("/auth/signup", CREDENTIALS | {"invite": code}), 403, "AUTH_ERROR")


async def test_a_client_of_supabase_auth_sends_the_code_as_metadata(start: Start) -> None:
    api = await start(sign_ups="invite")
    refused = await api.post("/auth/v1/signup", CREDENTIALS)
    assert (refused.status, refused.json["error_code"]) == (422, "signup_disabled")
    body = CREDENTIALS | {"data": {"name": "Alice", "invite": await invite(api)}}
    created = await api.post("/auth/v1/signup", body)
    assert created.status == 200, created.body
    metadata = created.json["user"]["user_metadata"]
    assert (metadata["name"], "invite" in metadata) == ("Alice", False)


async def test_a_new_invite_replaces_the_old_one_and_an_old_one_expires(start: Start) -> None:
    api = await start(sign_ups="invite")
    first, second = await invite(api), await invite(api)
    assert_problem(await api.post("/auth/signup", CREDENTIALS | {"invite": first}), 403, "AUTH_ERROR")
    expired = await invite(api, "bob@example.com", days=-1)
    body = CREDENTIALS | {"email": "bob@example.com", "invite": expired}
    assert_problem(await api.post("/auth/signup", body), 403, "AUTH_ERROR")
    assert (await api.post("/auth/signup", CREDENTIALS | {"invite": second})).status == 201


@pytest.mark.parametrize(
    ("path", "form"), [("/auth/signup", {}), ("/auth/v1/signup", {"data": {"name": "Alice"}})], ids=["ours", "gotrue"]
)
async def test_sign_ups_of_an_address_are_limited_over_all_instances(
    start: Start, path: str, form: dict[str, Any]
) -> None:
    here, there = await start(sign_ups_per_day=2, **PROXY), await start(sign_ups_per_day=2, **PROXY)
    for number, api in enumerate((here, there)):
        body = CREDENTIALS | form | {"email": f"user{number}@example.com"}
        assert (await api.post(path, body, headers=seen_from("8.8.8.8"))).status in {200, 201}
    for api in (here, there):
        refused = await api.post(path, CREDENTIALS | form, headers=seen_from("8.8.8.8"))
        assert refused.status == 429
        assert 1 <= int(refused.headers["Retry-After"]) <= 86_400
    assert (await here.post(path, CREDENTIALS | form, headers=seen_from("8.8.4.4"))).status in {200, 201}


async def test_a_network_counts_as_one_address_and_private_addresses_do_not_count(start: Start) -> None:
    api = await start(sign_ups_per_day=1, **PROXY)
    addresses = ["2a00:1450::1", "2a00:1450::2", "10.0.0.1", "10.0.0.1", "192.168.0.7", "192.168.0.7"]
    statuses = [
        (
            await api.post(
                "/auth/signup", CREDENTIALS | {"email": f"user{number}@example.com"}, headers=seen_from(address)
            )
        ).status
        for number, address in enumerate(addresses)
    ]
    assert statuses == [201, 429, 201, 201, 201, 201]


async def test_a_guessable_password_is_refused_with_the_reason(start: Start) -> None:
    api = await start()
    for password, words in (("Password123", "most common"), ("alice@example.com", "e-mail address")):
        reply = await api.post("/auth/signup", {"email": EMAIL, "password": password})
        assert_problem(reply, 422, "VALIDATION_ERROR", "password")
        assert words in reply.json["errors"][0]["message"]
        gotrue = await api.post("/auth/v1/signup", {"email": EMAIL, "password": password})
        assert (gotrue.status, gotrue.json["error_code"]) == (422, "weak_password")
        assert gotrue.json["weak_password"] == {"reasons": ["pwned"]}
    user = await api.sign_up(EMAIL)
    changed = await user.send("PUT", "/auth/v1/user", json={"password": "alice1987"})
    assert (changed.status, changed.json["error_code"]) == (422, "weak_password")


async def test_a_token_lives_as_long_as_the_setting_says(start: Start) -> None:
    api = await start(access_token_ttl_s=120)
    session = (await api.post("/auth/signup", CREDENTIALS)).json
    assert session["expires_in"] == 120
    assert UUID(session["user"]["id"])
