"""Tokens that are void before they expire: at once where it happens, soon at every other instance, streams included."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from server.actors import heartbeat
from server.actors.peer_notifier import PeerNotifier
from server.auth.accounts import SUSPENDED
from server.http import keys
from tests.acceptance.conftest import PASSWORD, Api, Reply, Start, created, events_of
from tests.signals import until

EMAIL = "alice@example.com"
NEW_PASSWORD = "staple of the horse"
HINTED_S = 2.0
"""Far below the interval of the heartbeat."""


def _at(other: Api, user: Api) -> Api:
    """The same user, at another instance."""
    return Api(other.client, other.app, user.token, user.user_id)


async def _status(api: Api) -> int:
    return (await api.get("/auth/user")).status


async def _sign_in(api: Api, password: str = PASSWORD) -> Reply:
    return await api.post("/auth/signin", {"email": EMAIL, "password": password})


@dataclass(frozen=True, slots=True)
class Event:
    """Something that revokes the token of `api`. `other` is another session of the same user."""

    happen: Callable[[Api, Api], Awaitable[Any]]
    spares_other: bool = False


async def _sign_out(api: Api, _other: Api) -> None:
    assert (await api.post("/auth/signout")).status == 204


async def _sign_out_everywhere(_api: Api, other: Api) -> None:
    assert (await other.post("/auth/v1/logout?scope=global")).status == 204


async def _sign_out_elsewhere(_api: Api, other: Api) -> None:
    assert (await other.post("/auth/v1/logout?scope=others")).status == 204


async def _change_password(_api: Api, other: Api) -> None:
    assert (await other.send("PUT", "/auth/v1/user", json={"password": NEW_PASSWORD})).status == 200


async def _delete(_api: Api, other: Api) -> None:
    assert (await other.send("DELETE", "/auth/user")).status == 204


async def _suspend(api: Api, _other: Api) -> None:
    await api.app[keys.READER].fetch("suspend_user", api.user_id)
    await api.app[keys.REVOCATIONS].publish()


EVENTS = {
    "sign-out": Event(_sign_out, spares_other=True),
    "sign-out everywhere": Event(_sign_out_everywhere),
    "sign-out of others": Event(_sign_out_elsewhere, spares_other=True),
    "new password": Event(_change_password, spares_other=True),
    "deletion": Event(_delete),
    "suspension": Event(_suspend),
}


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
async def test_a_token_ends_here_at_once_and_elsewhere_with_the_hint(start: Start, event: Event) -> None:
    server, elsewhere = await start(), await start()
    api = await server.sign_up(EMAIL)
    other = Api(server.client, server.app, (await _sign_in(server)).json["token"], api.user_id)
    stranger = await server.sign_up()
    await until(lambda: elsewhere.app[keys.ENGINE]._listener.is_heard)
    assert [await _status(_at(elsewhere, user)) for user in (api, other, stranger)] == [200, 200, 200]
    await event.happen(api, other)
    refused = await api.get("/auth/user")
    assert (refused.status, refused.json["code"]) == (401, "AUTH_ERROR")
    assert refused.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'

    async def is_refused_elsewhere() -> bool:
        return await _status(_at(elsewhere, api)) == 401

    await until(is_refused_elsewhere, within_s=HINTED_S)
    expected = 200 if event.spares_other else 401
    assert [await _status(_at(there, other)) for there in (server, elsewhere)] == [expected] * 2
    assert [await _status(_at(there, stranger)) for there in (server, elsewhere)] == [200, 200]


async def test_without_hints_the_heartbeat_finds_it(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PeerNotifier, "notify_all", lambda *_: None)
    monkeypatch.setattr(heartbeat, "RENEW_INTERVAL_S", 0.2)
    server, elsewhere = await start(), await start()
    api = await server.sign_up(EMAIL)
    await _sign_out(api, api)

    async def is_refused_elsewhere() -> bool:
        return await _status(_at(elsewhere, api)) == 401

    await until(is_refused_elsewhere, within_s=2)


async def test_an_instance_that_starts_later_knows_what_was_revoked_before(start: Start) -> None:
    api = await (await start()).sign_up(EMAIL)
    await _sign_out(api, api)
    assert await _status(_at(await start(), api)) == 401


@pytest.mark.parametrize("event", [_sign_out, _change_password, _delete, _suspend])
async def test_s6_streams_and_feeds_end_with_the_token(
    start: Start, event: Callable[[Api, Api], Awaitable[Any]]
) -> None:
    server, elsewhere = await start(), await start()
    api = await server.sign_up(EMAIL)
    other = Api(server.client, server.app, (await _sign_in(server)).json["token"], api.user_id)
    await until(lambda: elsewhere.app[keys.ENGINE]._listener.is_heard)
    running = (await other.create_async(model="offline/slow-20s")).json["id"]
    body = {"model": "offline/slow-20s", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    async with AsyncExitStack() as stack:
        sources = []
        for there in (server, elsewhere):
            user = _at(there, api)
            sources += [
                await stack.enter_async_context(events_of(user, "/api/requests/events")),
                await stack.enter_async_context(events_of(user, f"/api/requests/{running}/events")),
                await stack.enter_async_context(created(user, model="offline/slow-20s")),
            ]
        chat = await stack.enter_async_context(events_of(api, "/v1/chat/completions", method="POST", json=body))
        await event(api, other)
        async with asyncio.timeout(HINTED_S + 1):
            for source in sources:
                names = [told.name for told in await source.all(timeout_s=HINTED_S)]
                assert set(names) <= {"snapshot", "status", "delta", "cancelled"}
            await chat.response.content.read()


async def test_a_suspended_user_is_told_so_at_sign_in_and_refresh(start: Start) -> None:
    server = await start()
    api = await server.sign_up(EMAIL)
    session = (await _sign_in(server)).json
    await _suspend(api, api)
    for reply in (
        await _sign_in(server),
        await server.post("/auth/refresh", {"refresh_token": session["refresh_token"]}),
    ):
        assert (reply.status, reply.json["code"], reply.json["detail"]) == (403, "AUTH_ERROR", SUSPENDED)
    assert (await _sign_in(server, "wrong horse battery")).status == 401, "the password comes first"
    for path, form in (
        ("password", {"email": EMAIL, "password": PASSWORD}),
        ("refresh_token", {"refresh_token": session["refresh_token"]}),
    ):
        reply = await server.post(f"/auth/v1/token?grant_type={path}", form)
        assert (reply.status, reply.json["error_code"]) == (400, "user_banned")
    assert (await api.create("hello")).status == 401


async def test_a_restored_user_goes_on_where_the_suspension_began(start: Start) -> None:
    server = await start()
    api = await server.sign_up(EMAIL)
    session = (await _sign_in(server)).json
    await _suspend(api, api)
    assert (await server.post("/auth/refresh", {"refresh_token": session["refresh_token"]})).status == 403
    await server.app[keys.READER].fetch("restore_user", api.user_id)
    await server.app[keys.REVOCATIONS].publish()
    assert (await server.post("/auth/refresh", {"refresh_token": session["refresh_token"]})).status == 200
    assert await _status(api) == 200
    assert (await _sign_in(server)).status == 200


async def test_a_stolen_refresh_token_ends_the_access_tokens_of_its_session(start: Start, database: str) -> None:
    server = await start()
    await server.sign_up(EMAIL)
    first = (await _sign_in(server)).json
    second = (await server.post("/auth/refresh", {"refresh_token": first["refresh_token"]})).json
    third = (await server.post("/auth/refresh", {"refresh_token": second["refresh_token"]})).json
    thief = Api(server.client, server.app, third["token"])
    assert await _status(thief) == 200
    connection = await asyncpg.connect(database)
    await connection.execute("UPDATE auth.refresh_tokens SET updated_at = updated_at - interval '1 minute'")
    await connection.close()
    assert (await server.post("/auth/refresh", {"refresh_token": first["refresh_token"]})).status == 401
    assert await _status(thief) == 401
