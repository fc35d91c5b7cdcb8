"""Cancel and delete: the upstream call stops, what there is stays, and there is one end."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID

import pytest

from server.actors.generator import Generator
from server.actors.journal import Journal
from server.actors.workload import Running
from server.engine import Engine
from server.http import keys
from server.model_request import RequestId
from server.requests import service
from tests.acceptance.conftest import Api, Reply, Start, created, events_of
from tests.fakes.event_source import Told, final_of, joined
from tests.fakes.huggingface import Answer, End, FakeHuggingFace, chat_answer
from tests.rows import connected, read_row
from tests.signals import until

STALLED = replace(chat_answer("Once ", "upon", finish=None, usage=None, done=False), end=End.STALL)
SILENT = Answer(is_silent=True, end=End.STALL)


@pytest.fixture
async def upstream() -> AsyncIterator[FakeHuggingFace]:
    async with FakeHuggingFace() as fake:
        yield fake


@pytest.fixture
async def online(start: Start, upstream: FakeHuggingFace) -> Api:
    return await (await start(**online_settings(upstream))).sign_up()


def online_settings(upstream: FakeHuggingFace) -> dict[str, str]:
    return {"inference_backend": "huggingface", "hf_base_url": upstream.url, "text_models": "org/model"}


async def cancel(api: Api, request_id: str) -> Reply:
    return await api.post(f"/api/requests/{request_id}/cancel")


async def _closed_after(upstream: FakeHuggingFace, started: float) -> float:
    """Milliseconds until upstream saw its client go."""
    async with asyncio.timeout(5):
        await upstream.abandoned.wait()
    return 1000 * (asyncio.get_running_loop().time() - started)


@pytest.mark.parametrize("phase", ["connecting", "streaming"])
async def test_cancelling_a_call_closes_its_connection(online: Api, upstream: FakeHuggingFace, phase: str) -> None:
    upstream.answer(SILENT if phase == "connecting" else STALLED)
    async with created(online) as source:
        request_id = (await source.until("delta" if phase == "streaming" else "status"))[0].data["id"]
        await upstream.called.wait()
        started = asyncio.get_running_loop().time()
        reply, closed_ms = await asyncio.gather(cancel(online, request_id), _closed_after(upstream, started))
        final = final_of(await source.all())
    print(f"{phase}: upstream saw the end after {closed_ms:.1f} ms")
    assert (reply.status, reply.json["status"], final.name) == (200, "cancelled", "cancelled")
    assert final.data == reply.json
    assert closed_ms < 1000
    assert (await online.get(f"/api/requests/{request_id}")).json == reply.json


async def test_partial_text_is_kept_and_marked(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(STALLED)
    async with created(online) as source:
        heard = await source.until("delta")
        while joined(heard) != "Once upon":
            heard += await source.until("delta")
        reply = await cancel(online, heard[0].data["id"])
    assert reply.json["output_data"] == {"output": "Once upon", "partial": True}
    assert reply.json["error_code"] is None
    path = f"/api/requests/{reply.json['id']}/events"
    async with events_of(online, path) as source:
        assert joined(await source.all()) == "Once upon"


async def test_what_waits_is_cancelled_at_once_and_never_called(start: Start, upstream: FakeHuggingFace) -> None:
    upstream.answer(STALLED)
    api = await (await start(concurrency=1, **online_settings(upstream))).sign_up()
    await api.create_async()
    await upstream.called.wait()
    async with created(api) as source:
        waiting = (await source.until("status"))[0].data
        reply = await cancel(api, waiting["id"])
        final = final_of(await source.all())
    assert waiting["status"] == "pending"
    assert (reply.status, reply.json["status"], final.name) == (200, "cancelled", "cancelled")
    assert len(upstream.calls) == 1


async def test_a_cancel_that_comes_while_the_outcome_is_written_loses(
    online: Api, upstream: FakeHuggingFace, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.answer(chat_answer("done"))
    recording, go_on = asyncio.Event(), asyncio.Event()
    original = Journal.record

    async def slow(self: Journal, row: object) -> object:
        recording.set()
        await go_on.wait()
        return await original(self, row)  # type: ignore[arg-type]

    monkeypatch.setattr(Journal, "record", slow)
    async with created(online) as source:
        request_id = (await source.until("status"))[0].data["id"]
        await recording.wait()
        ending = asyncio.create_task(cancel(online, request_id))
        await _until_asked(database, request_id)
        go_on.set()
        reply = await ending
        final = final_of(await source.all())
    assert (reply.status, reply.json["code"]) == (409, "CONFLICT")
    assert (final.name, final.data["output_data"]["output"]) == ("completed", "done")


async def test_what_was_taken_up_and_has_not_begun_is_never_called(
    online: Api, upstream: FakeHuggingFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken_up, go_on = asyncio.Event(), asyncio.Event()
    original = Generator._reach_outcome

    async def late(self: Generator, running: Running) -> object:
        taken_up.set()
        await go_on.wait()
        return await original(self, running)

    monkeypatch.setattr(Generator, "_reach_outcome", late)
    upstream.answer(STALLED)
    request_id = (await online.create_async()).json["id"]
    await taken_up.wait()
    running = online.app[keys.ENGINE].workload.get(RequestId(UUID(request_id)))
    assert running is not None
    ending = asyncio.create_task(cancel(online, request_id))
    await until(lambda: running.stop_reason is not None)
    go_on.set()
    reply = await ending
    assert (reply.status, reply.json["status"]) == (200, "cancelled")
    assert upstream.calls == []


async def _until_asked(database: str, request_id: str) -> None:
    """Until the wish to cancel is in the database."""
    async with connected(database) as connection:

        async def is_asked() -> bool:
            return bool((await read_row(connection, RequestId(UUID(request_id))))["cancel_requested"])

        await until(is_asked)


async def test_an_owner_that_is_out_of_reach_is_not_waited_for_without_end(
    online: Api, upstream: FakeHuggingFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "CANCEL_WAIT_S", 0.1)
    monkeypatch.setattr(Engine, "cancel", lambda *_: None)
    upstream.answer(STALLED)
    created = await online.create_async()
    await upstream.called.wait()
    reply = await cancel(online, created.json["id"])
    assert (reply.status, reply.json["status"]) == (202, "processing")
    assert (reply.headers["Location"], reply.headers["Retry-After"]) == (created.headers["Location"], "1")


async def test_cancelling_twice_is_the_same_as_once(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(STALLED)
    request_id = (await online.create_async()).json["id"]
    await upstream.called.wait()
    first = await cancel(online, request_id)
    second = await cancel(online, request_id)
    assert (first.status, second.status) == (200, 200)
    assert first.json == second.json


async def test_many_who_cancel_get_one_end(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(STALLED)
    request_id = (await online.create_async()).json["id"]
    await upstream.called.wait()
    replies = await asyncio.gather(*(cancel(online, request_id) for _ in range(20)))
    assert {(reply.status, reply.json["completed_at"]) for reply in replies} == {(200, replies[0].json["completed_at"])}


async def test_what_has_ended_cannot_be_cancelled(api: Api) -> None:
    request_id = (await api.create("hello")).json["id"]
    reply = await cancel(api, request_id)
    assert (reply.status, reply.json["code"]) == (409, "CONFLICT")
    assert "completed" in reply.json["detail"]


async def test_a_waiting_create_gets_the_cancelled_object(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(STALLED)
    waiting = asyncio.create_task(online.create("hello"))
    await upstream.called.wait()
    [running] = (await online.get("/api/requests")).json
    await cancel(online, running["id"])
    reply = await waiting
    assert (reply.status, reply.json["status"]) == (200, "cancelled")


async def test_a_request_is_cancelled_from_another_instance(start: Start, upstream: FakeHuggingFace) -> None:
    upstream.answer(STALLED)
    here = await (await start(**online_settings(upstream))).sign_up()
    there = await start(**online_settings(upstream))
    elsewhere = Api(there.client, there.app, here.token, here.user_id)
    async with created(here) as source:
        request_id = (await source.until("delta"))[0].data["id"]
        reply = await cancel(elsewhere, request_id)
        assert reply.status in {200, 202}
        assert final_of(await source.all()).name == "cancelled"
    await upstream.abandoned.wait()


async def test_a_deleted_request_is_gone(api: Api) -> None:
    request_id = (await api.create("hello")).json["id"]
    assert (await api.send("DELETE", f"/api/requests/{request_id}")).status == 204
    assert (await api.get(f"/api/requests/{request_id}")).status == 404
    assert (await api.get(f"/api/requests/{request_id}/events")).status == 404
    assert (await api.send("DELETE", f"/api/requests/{request_id}")).status == 404
    assert (await api.get("/api/requests")).json == []


async def test_deleting_what_runs_cancels_it_first(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(STALLED)
    async with created(online) as source:
        request_id = (await source.until("delta"))[0].data["id"]
        assert (await online.send("DELETE", f"/api/requests/{request_id}")).status == 204
        assert final_of(await source.all()).name == "cancelled"
    await upstream.abandoned.wait()
    assert (await online.get("/api/requests")).json == []


@pytest.mark.parametrize(("method", "path"), [("POST", "/cancel"), ("DELETE", "")])
async def test_nobody_ends_what_is_not_theirs(api: Api, method: str, path: str) -> None:
    running = (await api.create_async(model="offline/slow-2s")).json["id"]
    stranger = await api.sign_up()
    assert (await stranger.send(method, f"/api/requests/{running}{path}")).status == 404
    assert (await stranger.send(method, f"/api/requests/nonsense{path}")).status == 404
    assert (await api.get(f"/api/requests/{running}?wait=20")).json["status"] == "completed"


async def test_whoever_ends_a_request_at_whatever_moment_its_stream_has_one_end(
    online: Api, upstream: FakeHuggingFace
) -> None:
    """Cancelled or deleted while it starts, streams, is recorded, or has ended."""
    upstream.default = lambda _: replace(chat_answer(*["word "] * 20, finish="stop"), pause_s=0.005)
    chance = random.Random(3)  # noqa: S311 - moments, not keys
    ends: Counter[tuple[bool, int, str]] = Counter()

    async def race(number: int) -> None:
        is_deleted, moment, is_now = bool(number % 2), chance.randrange(30), asyncio.Event()
        async with created(online, str(number)) as source:
            path = f"/api/requests/{(await source.until('status'))[0].data['id']}"

            async def end() -> Reply:
                if moment:
                    await is_now.wait()
                return await (online.send("DELETE", path) if is_deleted else online.post(f"{path}/cancel"))

            async def listen() -> list[Told]:
                heard = []
                async for told in source:
                    heard.append(told)
                    if len(heard) == moment:
                        is_now.set()
                is_now.set()
                return heard

            async with asyncio.timeout(20):
                reply, events = await asyncio.gather(end(), listen())
        final = final_of(events)
        ends[is_deleted, reply.status, final.name] += 1
        if is_deleted:
            assert (await online.get(path)).status == 404
            return
        stored = (await online.get(path)).json
        assert (final.name == "cancelled") == (reply.status == 200)
        assert stored == final.data
        async with events_of(online, f"{path}/events") as source:
            assert joined(await source.all()) == joined(events) == (stored["output_data"] or {}).get("output", "")
        assert (await online.get(f"{path}/events", headers={"Last-Event-ID": final.id})).status == 204

    for _ in range(3):
        await asyncio.gather(*(race(number) for number in range(20)))
    assert set(ends) <= {
        *((False, 200, "cancelled"), (False, 409, "completed")),
        *((True, 204, "cancelled"), (True, 204, "completed")),
    }
    assert len(ends) > 2
