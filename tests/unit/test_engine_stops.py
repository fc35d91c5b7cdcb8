"""The engine: how it drains, hands back, gives up its lease and stops."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from server import engine as engine_module
from server.actors.peer_notifier import channel_of
from server.actors.writes import Accepted, NewRequest
from server.engine import Engine
from server.inference.events import Completed, Delta
from server.lifecycle import Phase
from server.model_request import InstanceId, RequestId, Status, Usage, UserId, mint_id
from tests.fakes.journal import NOW
from tests.fakes.statements import Rows
from tests.unit.engines import Desk, renewal

DONE = Completed({"output": "Hi there"}, Usage(5, 2), "org/model")
AWAY = ConnectionResetError("away")
OTHER = InstanceId(mint_id())


def draining(engine: Engine, *, timeout_s: float = 30.0, hurry: asyncio.Event | None = None) -> "asyncio.Task[bool]":
    return asyncio.create_task(engine.drain(timeout_s=timeout_s, hurry=hurry or asyncio.Event()))


async def test_a_drain_takes_nothing_new_and_lets_what_runs_come_to_its_end(tmp_path: Path) -> None:
    gate = asyncio.Event()
    desk = Desk(tmp_path, gate, DONE)
    async with desk.started() as engine:
        request = desk.run()
        with engine.subscriptions.watch(request.id) as watch, engine.subscriptions.watch(mint_id()) as other:
            waiting = asyncio.create_task(other.wait(30))
            await desk.upstream.is_waiting.wait()
            drain = draining(engine)
            await asyncio.sleep(0)
            assert desk.lifecycle.phase is Phase.DRAINING
            assert not desk.lifecycle.accepts_work
            assert not waiting.done()
            gate.set()
            assert await drain
            view = await watch.wait(0)
            assert view is not None
            assert view.status is Status.COMPLETED
            assert await waiting is None
    assert desk.statements.names.count("record_outcomes") == 1
    assert "release_requests" not in desk.statements.names


async def test_a_drain_claims_nothing_from_the_backlog(tmp_path: Path) -> None:
    desk = Desk(tmp_path, asyncio.Event())
    async with desk.started() as engine:
        desk.run()
        await desk.upstream.is_waiting.wait()
        drain = draining(engine, timeout_s=0.05)
        asked = len(desk.statements.args_of("survey_backlog"))
        engine.backlog.hint()
        assert await drain
        assert len(desk.statements.args_of("survey_backlog")) == asked


async def _by_time(_hurry: asyncio.Event) -> None:
    pass


async def _in_a_hurry(hurry: asyncio.Event) -> None:
    hurry.set()


@pytest.mark.parametrize(("timeout_s", "end"), [(0.05, _by_time), (30.0, _in_a_hurry)], ids=["time up", "hurry"])
async def test_what_does_not_end_in_time_is_handed_back_at_once(
    tmp_path: Path, timeout_s: float, end: Callable[[asyncio.Event], Awaitable[None]]
) -> None:
    desk = Desk(tmp_path, Delta("Hi "), asyncio.Event())
    hurry = asyncio.Event()
    async with desk.started() as engine:
        request = desk.run()
        await desk.upstream.is_waiting.wait()
        drain = draining(engine, timeout_s=timeout_s, hurry=hurry)
        await end(hurry)
        async with asyncio.timeout(5):
            assert await drain
        assert engine.slots.used == 0
    [(ids, owners, epochs, delays, *_)] = desk.statements.args_of("release_requests")
    assert (ids, owners, epochs, delays) == ([request.id], [engine.lease.instance_id], [1], [0.0])
    assert "record_outcomes" not in desk.statements.names


async def test_a_drain_waits_for_a_create_that_is_on_its_way(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    is_asked, go_on = asyncio.Event(), asyncio.Event()

    async def accept(ids: list[RequestId], *_: Any) -> Rows:
        is_asked.set()
        await go_on.wait()
        return [{"id": ids[0], "created_at": NOW, "deadline_at": NOW}]

    desk.statements.answers["accept_requests"] = accept
    row = NewRequest(mint_id(), UserId(mint_id()), "text2text", None, b"{}", b"{}", None, 600.0)
    async with desk.started() as engine:
        creating = asyncio.create_task(engine.journal.accept(row))
        await is_asked.wait()
        drain = draining(engine)
        await asyncio.wait({drain}, timeout=0.05)
        assert not drain.done()
        go_on.set()
        assert await drain
        assert await creating == Accepted(NOW, NOW)


async def test_an_outcome_that_cannot_be_written_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_FLUSH_TIMEOUT_S", 0.1)
    desk = Desk(tmp_path, DONE)
    desk.statements.answers["record_outcomes"] = AWAY
    async with desk.started() as engine:
        desk.run()
        assert not await draining(engine, timeout_s=0.05)


async def test_who_comes_after_the_drain_does_not_wait(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    async with desk.started() as engine:
        assert await draining(engine)
        with engine.subscriptions.watch(mint_id()) as watch:
            async with asyncio.timeout(5):
                assert await watch.wait(30) is None


async def test_an_orderly_stop_gives_the_lease_up_and_does_not_take_it_again(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    async with desk.started() as engine:
        await engine.resign()
        assert desk.statements.args_of("delete_instance") == [(engine.lease.instance_id,)]
        renewals = len(desk.statements.args_of("register_instance"))
        desk.statements.answers["renew_lease"] = [renewal(is_renewed=False)]
        await engine._heartbeat.beat()
        assert len(desk.statements.args_of("register_instance")) == renewals


async def test_a_lease_that_was_never_held_is_not_given_up(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    await desk.engine.resign()
    assert desk.statements.asked == []


async def test_a_lease_is_left_to_expire_while_the_database_is_away(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    async with desk.started() as engine:
        desk.statements.answers["delete_instance"] = AWAY
        await engine.resign()
    assert desk.lifecycle.phase is Phase.STOPPED


async def test_a_stop_ends_every_actor_and_every_connection(tmp_path: Path) -> None:
    desk = Desk(tmp_path, asyncio.Event())
    async with desk.started() as engine:
        desk.run()
        await desk.upstream.is_waiting.wait()
        assert desk.database.open_connections > 1
    assert desk.lifecycle.phase is Phase.STOPPED
    assert engine.task is not None
    assert engine.task.cancelled()
    assert desk.upstream.open_calls == 0
    assert desk.database.open_connections == 0
    assert "record_outcomes" not in desk.statements.names


async def test_a_stop_before_the_start_is_harmless(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    await desk.engine.stop()
    assert desk.lifecycle.phase is Phase.STOPPED


async def test_a_stop_ends_the_wait_for_a_database_that_is_away(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.database.refusals.extend([AWAY] * 10_000)
    desk.engine.start()
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await desk.engine.stop()
    assert desk.engine.task is not None
    assert desk.engine.task.cancelled()
    assert desk.database.open_connections == 0


async def test_a_cancel_stops_what_runs_here_and_tells_the_owner_of_what_runs_elsewhere(tmp_path: Path) -> None:
    desk = Desk(tmp_path, asyncio.Event())
    desk.statements.answers["renew_lease"] = [renewal(live_instances=2)]
    async with desk.started() as engine:
        engine.lease.live_instances = 2
        request, elsewhere = desk.run(), mint_id()
        await desk.upstream.is_waiting.wait()
        told = asyncio.Event()

        def notify(*_: Any) -> Rows:
            told.set()
            return []

        desk.statements.answers["notify_instances"] = notify
        engine.cancel(elsewhere, OTHER)
        async with asyncio.timeout(5):
            await told.wait()
        engine.cancel(request.id, engine.lease.instance_id)
        async with asyncio.timeout(5):
            await engine.slots.wait_idle()
    told_to = [pair for args in desk.statements.args_of("notify_instances") for pair in zip(*args, strict=True)]
    [text] = [text for channel, text in told_to if channel == channel_of(OTHER)]
    assert orjson.loads(text)[1:] == [["cancel", str(elsewhere)]]
    [(_, _, _, statuses, *_)] = desk.statements.args_of("record_outcomes")
    assert statuses == ["cancelled"]
