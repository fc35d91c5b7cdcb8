"""Two servers on one database: a stream at one shows what the other runs, as it comes."""

import asyncio
import json
import random
from itertools import count
from typing import Any
from uuid import uuid4

import pytest

from server import app
from server.actors import heartbeat, subscriptions
from server.actors import stream_relay as relay
from server.actors.peer_notifier import EVERYONE, channel_of
from server.http import keys
from server.requests import service
from tests.acceptance.conftest import Api, Start, created, events_of
from tests.fakes.event_source import final_of, joined
from tests.rows import connected
from tests.signals import until

LONG = "offline/long-stream"


@pytest.fixture
def _rare_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "SWEEP_INTERVAL_S", 60.0)


@pytest.fixture
async def both(start: Start, database: str) -> tuple[Api, Api]:
    """The same user at two instances that know of each other, and have a session to listen by in any case."""
    here, there = await start(listen_database_url=database), await start(listen_database_url=database)
    user = await here.sign_up()
    await asyncio.gather(*(hear_each_other(api) for api in (here, there)))
    return user, Api(there.client, there.app, user.token, user.user_id)


async def hear_each_other(api: Api) -> None:
    """Until an instance has seen the other, and hears."""
    engine = api.app[keys.ENGINE]

    async def has_seen_the_other() -> bool:
        await engine._heartbeat.beat()
        return not engine.lease.is_alone

    await until(has_seen_the_other)
    await until(lambda: engine._listener.is_heard, within_s=15)


async def test_a_stream_at_another_instance_gets_deltas_while_they_are_made(both: tuple[Api, Api]) -> None:
    here, there = both
    async with created(here, model=LONG) as source:
        request_id = (await source.until("status"))[0].data["id"]
        async with events_of(there, f"/api/requests/{request_id}/events") as remote:
            heard = await remote.until("delta")
            assert (await here.get(f"/api/requests/{request_id}")).json["status"] == "processing"
            heard += await remote.all()
        local = await source.all()
    assert joined(heard) == joined(local) == final_of(heard).data["output_data"]["output"]
    assert final_of(heard).data == final_of(local).data
    assert len([told for told in heard if told.name == "delta"]) > 20


async def test_i5_a_reader_at_an_instance_that_does_not_know_the_owner_yet(
    start: Start, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner started a moment ago: no renewal has told either of the other, and none does in this test."""
    monkeypatch.setattr(heartbeat, "RENEW_INTERVAL_S", 60.0)
    monkeypatch.setattr(relay, "ASK_INTERVAL_S", 60.0)
    there = await start(listen_database_url=database)
    here = await start(listen_database_url=database)
    user = await here.sign_up()
    reader = Api(there.client, there.app, user.token, user.user_id)
    for api in (here, there):
        api.app[keys.ENGINE].lease.live_instances = 1
    async with created(user, model=LONG) as source:
        request_id = (await source.until("status"))[0].data["id"]
        async with events_of(reader, f"/api/requests/{request_id}/events") as remote:
            heard = await remote.until("delta")
    assert heard[-1].name == "delta"


async def test_a_reader_may_change_the_instance_at_any_event(both: tuple[Api, Api]) -> None:
    request_id = (await both[0].create_async(model=LONG)).json["id"]
    heard: list[Any] = []
    turn = 0
    while not heard or heard[-1].name != "completed":
        last = {"Last-Event-ID": heard[-1].id} if heard else {}
        async with events_of(both[turn % 2], f"/api/requests/{request_id}/events", headers=last) as source:
            left = 12
            async for told in source:
                heard.append(told)
                left -= 1
                if not left:
                    break
        turn += 1
    assert turn > 5
    assert joined(heard) == heard[-1].data["output_data"]["output"]
    assert "reset" not in {told.name for told in heard}


async def test_lost_hints_are_made_good(both: tuple[Api, Api], monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = both
    monkeypatch.setattr(relay, "_GAP_PAUSE_S", 0.0)
    handlers = there.app[keys.ENGINE]._listener._handlers
    take_text, calls = handlers["text"], count()

    def forget_every_third(*args: Any) -> None:
        if next(calls) % 3:
            take_text(*args)

    monkeypatch.setitem(handlers, "text", forget_every_third)
    request_id = (await here.create_async(model=LONG)).json["id"]
    async with events_of(there, f"/api/requests/{request_id}/events") as source:
        heard = await source.all()
    assert next(calls) > 10
    assert joined(heard) == final_of(heard).data["output_data"]["output"]


@pytest.mark.usefixtures("_rare_sweeps")
async def test_a_cancel_at_another_instance_is_heard_at_once(
    both: tuple[Api, Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long before the renewal that finds out without a hint, and before the wait for it is over."""
    here, there = both
    monkeypatch.setattr(service, "CANCEL_WAIT_S", 60.0)
    monkeypatch.setattr(heartbeat, "RENEW_INTERVAL_S", 10.0)
    async with created(here, model="offline/slow-20s") as source:
        request_id = (await source.until("status"))[0].data["id"]
        async with asyncio.timeout(5):
            reply = await there.post(f"/api/requests/{request_id}/cancel")
        assert (reply.status, reply.json["status"]) == (200, "cancelled")
        assert final_of(await source.all()).name == "cancelled"


@pytest.mark.usefixtures("_rare_sweeps")
async def test_who_waits_at_another_instance_is_told_by_a_hint(both: tuple[Api, Api]) -> None:
    """Long before the sweep that finds out without one."""
    here, there = both
    request_id = (await here.create_async(model="offline/slow-2s")).json["id"]
    async with asyncio.timeout(20):
        reply = await there.get(f"/api/requests/{request_id}?wait=60")
    assert reply.json["status"] == "completed"


async def test_nothing_is_kept_of_readers_that_left(both: tuple[Api, Api], monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = both
    monkeypatch.setattr(relay, "_UNUSED_FOR_S", 0.1)
    monkeypatch.setattr(relay, "SEND_FOR_S", 0.1)
    request_id = (await here.create_async(model=LONG)).json["id"]
    async with events_of(there, f"/api/requests/{request_id}/events") as source:
        await source.until("delta")
    await until(lambda: not there.app[keys.ENGINE]._relay._mirrors and not here.app[keys.ENGINE]._relay._outboxes)


@pytest.fixture
async def deaf(start: Start, monkeypatch: pytest.MonkeyPatch) -> tuple[Api, Api]:
    """The same user at two instances that cannot LISTEN: behind a transaction pooler, say."""
    monkeypatch.setattr(app, "listening_database", lambda *_: None)
    here, there = await start(), await start()
    user = await here.sign_up()
    for api in (here, there):
        engine = api.app[keys.ENGINE]
        await engine._heartbeat.beat()
        assert not engine.lease.is_alone
    return user, Api(there.client, there.app, user.token, user.user_id)


async def test_without_hints_the_text_goes_by_a_table(deaf: tuple[Api, Api]) -> None:
    here, there = deaf
    request_id = (await here.create_async(model=LONG)).json["id"]
    async with events_of(there, f"/api/requests/{request_id}/events") as source:
        heard = await source.until("delta")
        assert (await here.get(f"/api/requests/{request_id}")).json["status"] == "processing"
        heard += await source.all()
    deltas = [told for told in heard if told.name == "delta"]
    assert len(deltas) > 5
    assert joined(heard) == final_of(heard).data["output_data"]["output"]


async def test_without_hints_a_cancel_arrives_with_the_next_renewal(deaf: tuple[Api, Api]) -> None:
    here, there = deaf
    async with created(here, model="offline/slow-20s") as source:
        request_id = (await source.until("status"))[0].data["id"]
        reply = await there.post(f"/api/requests/{request_id}/cancel")
        assert reply.status in {200, 202}
        assert final_of(await source.all()).name == "cancelled"


async def _follows(here: Api, there: Api) -> list[Any]:
    """What a reader at one gets of a request at the other: more than its end."""
    request_id = (await here.create_async(model=LONG)).json["id"]
    async with events_of(there, f"/api/requests/{request_id}/events") as source:
        heard = await source.all()
    assert joined(heard) == final_of(heard).data["output_data"]["output"]
    return [told for told in heard if told.name == "delta"]


def _crashes(apis: tuple[Api, Api]) -> int:
    """Of actors, that were started again."""
    return sum(len(api.app[keys.ENGINE]._supervisor._crashes) for api in apis)


async def test_anything_can_be_said_on_the_channels_without_harm(both: tuple[Api, Api], database: str) -> None:
    here, there = both
    stranger, lease = str(uuid4()), here.app[keys.ENGINE].lease
    running = (await here.create_async(model="offline/slow-20s")).json["id"]
    strange: list[Any] = [None, True, 1.5, -1, 2**62, "", "x", [], {}, running, stranger, "output"]
    chance = random.Random(7)  # noqa: S311 - garbage, not keys
    kinds = ["changed", "backlog", "revoked", "follow", "text", "echo", "later", None, 3]
    payloads = ["", "{", "null", '"', "[]", "[[]]", "\u0301", "x" * 7000]
    for _ in range(500):
        message = [chance.choice(kinds), *chance.choices(strange, k=chance.randrange(9))]
        payloads.append(json.dumps([stranger, message, ["changed", [running]]]))
    no_offsets: list[Any] = [1.5, "1", None, [], -7, 2**62]
    for offset in no_offsets:
        payloads.append(json.dumps([stranger, ["follow", running, 1, offset, 0, stranger]]))
        payloads.append(json.dumps([stranger, ["follow", running, 1, 0, offset, stranger]]))
    async with connected(database) as connection:
        for payload in payloads:
            for channel in (EVERYONE, channel_of(lease.instance_id)):
                await connection.execute("SELECT pg_notify($1, $2)", channel, payload)
    assert len(await _follows(here, there)) > 20
    assert len(await _follows(there, here)) > 20
    assert not _crashes(both)
    assert (await here.post(f"/api/requests/{running}/cancel")).status == 200


async def test_an_instance_that_takes_another_id_is_heard_and_hears_again(both: tuple[Api, Api]) -> None:
    here, there = both
    engine = there.app[keys.ENGINE]
    engine.lease.replace()
    await engine._heartbeat.register()
    async with asyncio.timeout(20):
        while len(await _follows(here, there)) <= 20:
            pass


async def test_a_listener_whose_connection_is_cut_listens_again(both: tuple[Api, Api], database: str) -> None:
    here, there = both
    async with connected(database) as connection:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    async with asyncio.timeout(40):
        while len(await _follows(here, there)) <= 20:
            pass
    assert not _crashes(both)
