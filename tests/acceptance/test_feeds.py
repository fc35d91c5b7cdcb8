"""The stream of all that becomes of a user's requests."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from server.actors import feeds
from server.http import keys
from server.requests.stream import HEARTBEAT_S
from server.routes import events
from tests.acceptance.conftest import Api, Start, events_of
from tests.fakes.event_source import EventSource, Told
from tests.signals import until


async def statuses_of(source: EventSource, request_id: str) -> list[str]:
    """The states that the feed tells of one request, up to its end."""
    heard: list[str] = []
    async with asyncio.timeout(10):
        async for told in source:
            if told.name == "status" and told.data["id"] == request_id:
                heard.append(told.data["status"])
                if told.data["status"] in {"completed", "failed", "cancelled"}:
                    return heard
    raise AssertionError(heard)


async def snapshot_of(source: EventSource) -> Told:
    [told] = await source.until("snapshot")
    return told


async def test_a_feed_opens_with_what_lives_and_goes_on_with_every_change(start: Start) -> None:
    api = await (await start(concurrency=1)).sign_up()
    await api.create("ended")
    running = (await api.create_async(model="offline/slow-2s")).json["id"]
    async with events_of(api, "/api/requests/events") as source:
        snapshot = await snapshot_of(source)
        waiting = (await api.create_async()).json["id"]
        assert await statuses_of(source, waiting) == ["pending", "processing", "completed"]
    assert snapshot.data == {"requests": [{"id": running, "status": "processing"}]}


async def test_every_end_is_told_once(api: Api) -> None:
    async with events_of(api, "/api/requests/events") as source:
        await snapshot_of(source)
        ids = {(await api.create_async(str(number))).json["id"] for number in range(20)}
        ends: list[str] = []
        async with asyncio.timeout(10):
            async for told in source:
                ends += [told.data["id"]] if told.data["status"] == "completed" else []
                if len(ends) == len(ids):
                    break
        last = (await api.create_async("last")).json["id"]
        assert (await statuses_of(source, last))[-1] == "completed"  # and nothing of the others in between
    assert set(ends) == ids


async def test_a_feed_tells_nothing_of_others(api: Api) -> None:
    stranger = await api.sign_up()
    async with events_of(api, "/api/requests/events") as source:
        await snapshot_of(source)
        await stranger.create("not yours")
        mine = (await api.create("mine")).json["id"]
        async with asyncio.timeout(10):
            async for told in source:
                assert told.data["id"] == mine
                if told.data["status"] == "completed":
                    break


async def test_changes_on_another_instance_are_told(start: Start) -> None:
    here = await (await start()).sign_up()
    there = await start()
    elsewhere = Api(there.client, there.app, here.token, here.user_id)
    async with events_of(here, "/api/requests/events") as source:
        await snapshot_of(source)
        request_id = (await elsewhere.create("fast")).json["id"]
        assert (await statuses_of(source, request_id))[-1] == "completed"


async def test_a_server_that_stops_sends_its_listeners_home(api: Api) -> None:
    async with events_of(api, "/api/requests/events") as source:
        await snapshot_of(source)
        assert await api.app[keys.ENGINE].drain(timeout_s=0, hurry=asyncio.Event())
        assert await source.all(timeout_s=HEARTBEAT_S / 3) == []
    assert source.retries == ["1000"]


async def test_an_idle_feed_is_kept_alive(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.02)
    async with events_of(api, "/api/requests/events") as source:
        await snapshot_of(source)
        async with asyncio.timeout(10):
            await source.response.content.readuntil(b": still here\n\n")


async def test_a_reader_that_leaves_while_nothing_happens_makes_room_for_another(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long before the heartbeat, which would be the next write to it."""
    monkeypatch.setattr(feeds, "MAX_FEEDS", 1)
    async with events_of(api, "/api/requests/events") as source:
        await snapshot_of(source)
        assert (await api.get("/api/requests/events")).status == 503

    async def is_let_in() -> bool:
        return (await api.send("HEAD", "/api/requests/events")).status != 503

    await until(is_let_in, within_s=HEARTBEAT_S / 3)


async def test_one_user_cannot_take_all_feeds(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "MAX_FEEDS_PER_USER", 1)
    async with events_of(api, "/api/requests/events") as source:
        await snapshot_of(source)
        reply = await api.get("/api/requests/events")
        assert (reply.status, reply.json["code"]) == (429, "RATE_LIMITED")
        assert "Retry-After" in reply.headers
        async with events_of(await api.sign_up(), "/api/requests/events") as other:
            await snapshot_of(other)


async def test_too_many_feeds_are_refused(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "MAX_FEEDS", 0)
    reply = await api.get("/api/requests/events")
    assert (reply.status, reply.json["code"]) == (503, "SERVER_ERROR")
    assert "Retry-After" in reply.headers


async def test_what_was_deleted_at_another_instance_has_ended(start: Start) -> None:
    here = await (await start(concurrency=1)).sign_up()
    there = await start(concurrency=1)
    elsewhere = Api(there.client, there.app, here.token, here.user_id)
    for api in (here, elsewhere):
        await api.create_async(model="offline/slow-20s")
    waiting = (await here.create_async()).json
    assert waiting["status"] == "pending"
    async with events_of(here, "/api/requests/events") as source:
        await snapshot_of(source)
        assert (await elsewhere.send("DELETE", f"/api/requests/{waiting['id']}")).status == 204
        assert await statuses_of(source, waiting["id"]) == ["cancelled"]


async def _sign_out(api: Api) -> None:
    assert (await api.post("/api/auth/signout")).status == 204


async def _delete_account(api: Api) -> None:
    assert (await api.send("DELETE", "/api/auth/user")).status == 204


@pytest.mark.parametrize("end_session", [_sign_out, _delete_account])
async def test_s6_a_feed_ends_with_its_session(api: Api, end_session: Callable[[Api], Awaitable[None]]) -> None:
    other = await api.sign_up()
    async with events_of(api, "/api/requests/events") as source, events_of(other, "/api/requests/events") as stays:
        await snapshot_of(source)
        await snapshot_of(stays)
        await end_session(api)
        assert await source.all(timeout_s=5) == []
        assert (await api.get("/api/requests/events")).status == 401
        request_id = (await other.create("goes on")).json["id"]
        assert (await statuses_of(stays, request_id))[-1] == "completed"


async def test_s6_a_feed_ends_with_its_token(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.05)
    async with events_of(api, "/api/requests/events") as source:
        await snapshot_of(source)
        now = time.time()
        monkeypatch.setattr(api.app[keys.VERIFIER], "_clock", lambda: now + 3600 + 60)
        assert await source.all(timeout_s=5) == []
        assert (await api.get("/api/requests/events")).status == 401
