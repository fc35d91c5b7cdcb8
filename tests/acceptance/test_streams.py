"""Streams over HTTP: one request as it goes on, cut and resumed anywhere, and exactly one end."""

import asyncio
import gc
import random
from collections.abc import AsyncIterator

import asyncpg
import pytest
from aiohttp import ClientPayloadError, web

from server.actors import feeds, subscriptions
from server.actors.journal import Journal
from server.actors.subscription import StreamSubscription
from server.actors.writes import WriteResult
from server.http import keys, sse
from server.model_request import FinalRow
from server.requests import stream as streams
from server.routes import events as event_routes
from tests.acceptance.conftest import Api, Start, created, events_of
from tests.fakes.event_source import Told, final_of, joined
from tests.fakes.huggingface import Answer, FakeHuggingFace, chat_answer, event
from tests.signals import until

LONG = "offline/long-stream"
WORDS = ["Grüße ", "👩‍👩‍👧 ", "and ", "\U0001d518\U0001d52b", "code ", "\u0301e ", "日本", "語 "]


def thinking_answer(*, pause_s: float = 0.0, count: int = 40) -> Answer:
    """A chat that thinks first, in characters of every width, each delta a piece of its own."""
    thoughts = [{"choices": [{"index": 0, "delta": {"reasoning": word}}]} for word in WORDS]
    words = [{"choices": [{"index": 0, "delta": {"content": WORDS[n % len(WORDS)]}}]} for n in range(count)]
    end = chat_answer(finish="stop")
    return Answer(200, end.headers, (*(event(item) for item in thoughts + words), *end.pieces[1:]), pause_s=pause_s)


@pytest.fixture
async def upstream() -> AsyncIterator[FakeHuggingFace]:
    async with FakeHuggingFace() as fake:
        yield fake


@pytest.fixture
async def online(start: Start, upstream: FakeHuggingFace) -> Api:
    settings = {"inference_backend": "huggingface", "hf_base_url": upstream.url, "text_models": "org/model"}
    return await (await start(**settings)).sign_up()


async def create(api: Api) -> str:
    reply = await api.create_async()
    assert reply.status == 202
    return str(reply.json["id"])


async def test_a_create_streams_its_request_from_the_first_state_to_the_end(api: Api) -> None:
    async with created(api, model=LONG) as source:
        assert source.response.headers["X-Request-Id"]
        events = await source.all()
    assert events[0].name == "status"
    assert events[0].data["status"] == "processing"
    assert {told.name for told in events[1:-1]} == {"delta"}
    final = final_of(events)
    stored = await api.get(f"/api/requests/{final.data['id']}")
    assert final.data == stored.json
    assert joined(events) == stored.json["output_data"]["output"]
    assert source.response.headers["Location"] == f"/api/requests/{final.data['id']}"


async def test_deltas_come_as_they_are_made_not_at_the_end(api: Api) -> None:
    async with created(api, model=LONG) as source:
        heard = await source.until("delta")
        running = await api.get(f"/api/requests/{heard[0].data['id']}")
    assert running.json["status"] == "processing"
    assert running.json["output_data"] is None


async def test_ids_say_how_much_text_was_sent(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(thinking_answer())
    async with events_of(online, f"/api/requests/{await create(online)}/events") as source:
        events = await source.all()
    offset = 0
    for told in events:
        if told.name == "delta":
            offset += len(told.data["text"])
        expected = offset + 1 if told.name == "completed" else offset
        assert told.id == f"1.1-{expected}"
    assert joined(events, "reasoning") == "".join(WORDS)


async def _cut_and_resume(api: Api, path: str, rng: random.Random) -> list[Told]:
    """Every event, got over connections that break after a few of them; then nothing more."""
    heard: list[Told] = []
    while not heard or heard[-1].name != "completed":
        last = {"Last-Event-ID": heard[-1].id} if heard else {}
        async with events_of(api, path, headers=last) as source:
            left = rng.randint(1, 6)
            async for told in source:
                heard.append(told)
                left -= 1
                if not left:
                    break
    again = await api.get(path, headers={"Last-Event-ID": heard[-1].id})
    assert (again.status, again.body) == (204, b"")
    return heard


async def test_a_stream_cut_anywhere_and_resumed_yields_the_same_text_while_it_runs_and_afterwards(
    online: Api, upstream: FakeHuggingFace
) -> None:
    upstream.default = lambda _: thinking_answer(pause_s=0.01)
    rng = random.Random(4)  # noqa: S311 - cuts, not keys
    expected = "".join(WORDS) * 5
    cuts = 0
    for _ in range(5):
        path = f"/api/requests/{await create(online)}/events"
        running = await _cut_and_resume(online, path, rng)
        afterwards = await _cut_and_resume(online, path, rng)
        for events in (running, afterwards):
            assert joined(events) == expected
            assert joined(events, "reasoning") == "".join(WORDS)
            assert [told.name for told in events].count("completed") == 1
        cuts += sum(told.name == "status" for told in running)
    assert cuts >= 50


async def test_every_place_of_a_finished_text_can_be_resumed_from(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(thinking_answer(count=8))
    path = f"/api/requests/{await create(online)}/events"
    async with events_of(online, path) as source:
        whole = await source.all()
    text = joined(whole, "reasoning") + joined(whole)
    for offset in range(len(text) + 1):
        async with events_of(online, f"{path}?after=1.1-{offset}") as source:
            rest = await source.all()
        assert "".join(told.data["text"] for told in rest if told.name == "delta") == text[offset:]
        assert final_of(rest).data == whole[-1].data


async def test_what_came_between_the_segments_is_kept(online: Api, upstream: FakeHuggingFace) -> None:
    deltas = [{"content": "one "}, {"reasoning": "hm "}, {"content": "two"}, {"reasoning": "so"}]
    pieces = tuple(event({"choices": [{"index": 0, "delta": delta}]}) for delta in deltas)
    end = chat_answer(finish="stop")
    upstream.answer(Answer(200, end.headers, pieces + end.pieces[1:]))
    path = f"/api/requests/{await create(online)}/events"
    async with events_of(online, path) as source:
        live = [told for told in await source.all() if told.name == "delta"]
    async with events_of(online, path) as source:
        stored = [told for told in await source.all() if told.name == "delta"]
    assert [told.data for told in stored] == [told.data for told in live]
    assert [told.data["text"] for told in live] == ["one ", "hm ", "two", "so"]


async def test_a_cut_answer_ends_as_failed_with_its_partial_text(api: Api) -> None:
    async with created(api, model="offline/truncated") as source:
        events = await source.all()
    final = final_of(events)
    assert final.name == "failed"
    assert final.data["output_data"]["partial"] is True
    assert joined(events) == final.data["output_data"]["output"]


async def test_many_readers_read_the_same_at_their_own_pace(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(thinking_answer(pause_s=0.005))
    path = f"/api/requests/{await create(online)}/events"

    async def read() -> str:
        async with events_of(online, path) as source:
            return joined(await source.all())

    assert set(await asyncio.gather(*(read() for _ in range(20)))) == {"".join(WORDS) * 5}


async def test_a_request_that_waits_says_so_and_then_starts(start: Start) -> None:
    api = await (await start(concurrency=1)).sign_up()
    await api.create_async(model="offline/slow-2s")
    async with created(api) as source:
        events = await source.all()
    assert [told.data["status"] for told in events if told.name == "status"] == ["pending", "processing"]
    assert final_of(events).name == "completed"


async def test_an_id_that_is_not_ours_makes_the_reader_begin_anew(api: Api) -> None:
    request_id = (await api.create("hello")).json["id"]
    async with events_of(api, f"/api/requests/{request_id}/events", headers={"Last-Event-ID": "garbage"}) as source:
        events = await source.all()
    assert [told.name for told in events] == ["reset", "delta", "completed"]


@pytest.mark.parametrize("after", ["", "x", "1.1", "-1.1-1", "1.1-99999999999"])
async def test_a_bad_after_is_refused_by_name(api: Api, after: str) -> None:
    request_id = (await api.create("hello")).json["id"]
    reply = await api.get(f"/api/requests/{request_id}/events", params={"after": after})
    assert (reply.status, reply.json["errors"][0]["field"]) == (422, "after")


async def test_the_stream_of_someone_else_is_not_there(api: Api) -> None:
    request_id = (await api.create("hello")).json["id"]
    stranger = await api.sign_up()
    reply = await stranger.get(f"/api/requests/{request_id}/events")
    assert (reply.status, reply.json["code"]) == (404, "NOT_FOUND")
    assert (await api.get("/api/requests/nonsense/events")).status == 404


async def test_a_refused_create_is_an_error_not_a_stream(api: Api) -> None:
    reply = await api.create("hello", headers={"Accept": "text/event-stream"}, model_type="nonsense")
    assert (reply.status, reply.json["code"]) == (422, "VALIDATION_ERROR")


async def test_a_repeated_create_streams_the_same_request(api: Api) -> None:
    body = {"model_type": "text2text", "input_data": {"prompt": "once"}}
    headers = {"Accept": "text/event-stream", "Idempotency-Key": "k"}
    seen = []
    for _ in range(2):
        async with events_of(api, "/api/requests", method="POST", json=body, headers=headers) as source:
            seen.append(final_of(await source.all()).data["id"])
    assert seen[0] == seen[1]
    assert source.response.headers["Idempotent-Replayed"] == "true"


async def test_an_idle_stream_is_kept_alive(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_S", 0.05)
    async with created(api, model="offline/slow-2s") as source:
        await source.all()
    assert len(source.comments) > 5


async def test_a_server_that_stops_ends_its_streams_without_an_end(start: Start) -> None:
    api = await (await start()).sign_up()
    async with created(api, model="offline/slow-20s") as source:
        await source.until("status")
        engine = api.app[keys.ENGINE]
        assert await engine.drain(timeout_s=0, hurry=asyncio.Event())
        events = await source.all()
    assert not [told for told in events if told.name in {"completed", "failed", "cancelled"}]
    assert source.retries == ["1000"]


async def test_a_reader_that_leaves_leaves_nothing_behind(api: Api) -> None:
    async with created(api, model=LONG) as source:
        heard = await source.until("delta")
    waiting = api.app[keys.REQUESTS].subscriptions
    await until(lambda: len(waiting) == 0)

    def is_freed() -> bool:
        gc.collect()
        return not any(isinstance(kept, sse.EventStream) for kept in gc.get_objects())

    await until(is_freed)
    final = await api.get(f"/api/requests/{heard[0].data['id']}?wait=20")
    assert final.json["status"] == "completed"


async def test_a_reader_that_leaves_while_nothing_happens_is_noticed(api: Api) -> None:
    """Long before the heartbeat, which would be the next write to it."""
    async with created(api, model="offline/slow-20s") as source:
        await source.until("status")
    await until(lambda: len(api.app[keys.REQUESTS].subscriptions) == 0, within_s=streams.HEARTBEAT_S / 3)


async def test_text_that_cannot_be_kept_is_taken_back(
    online: Api, upstream: FakeHuggingFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Journal.record

    async def refuse(self: Journal, row: FinalRow) -> WriteResult:
        if row.output_data is not None:
            raise asyncpg.DataError("invalid byte sequence")
        return await original(self, row)

    monkeypatch.setattr(Journal, "record", refuse)
    upstream.answer(chat_answer("Once ", "upon"))
    async with created(online) as source:
        events = await source.all()
    assert [told.name for told in events if told.name != "delta"] == ["status", "reset", "failed"]
    assert (joined(events), final_of(events).data["output_data"]) == ("", None)


async def test_a_reader_that_does_not_read_is_cut_off(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would hold its place and its connection for ever. Who reads, and is told nothing, stays."""
    monkeypatch.setattr(sse, "STALL_S", 0.2)
    monkeypatch.setattr(event_routes, "HEARTBEAT_S", 0.0)
    monkeypatch.setattr(event_routes, "HEARTBEAT", b":" + bytes(sse.MAX_PIECE) + b"\n\n")
    async with created(api, model="offline/slow-20s") as quiet, asyncio.timeout(20):
        await quiet.until("status")
        async with events_of(api, "/api/requests/events"):
            await until(lambda: api.app[keys.FEEDS]._by_user)  # the handler begins a moment after the connection
            await until(lambda: not api.app[keys.FEEDS]._by_user)  # and ends by itself
        assert len(api.app[keys.REQUESTS].subscriptions) == 1


async def test_a_reader_that_does_not_take_the_last_of_a_stream_is_cut_off(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(_: web.StreamResponse) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(sse, "STALL_S", 0.2)
    monkeypatch.setattr(web.StreamResponse, "write_eof", hang)
    with pytest.raises(ClientPayloadError):
        async with created(api) as source:
            await source.all()
    await until(lambda: len(api.app[keys.REQUESTS].subscriptions) == 0)


async def test_a_wake_up_between_the_look_and_the_wait_is_not_lost(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end comes while the first look at the row is on its way back."""
    original = StreamSubscription.wait

    async def late(self: StreamSubscription, timeout_s: float) -> None:
        await asyncio.sleep(0.05)
        await original(self, timeout_s)

    monkeypatch.setattr(StreamSubscription, "wait", late)
    async with created(api) as source:
        assert final_of(await source.all()).name == "completed"


async def _raw(api: Api, request_line: str, *headers: str, timeout_s: float = 10) -> bytes:
    """What comes until the server closes the connection."""
    assert api.client.server.port is not None
    reader, writer = await asyncio.open_connection(api.client.server.host, api.client.server.port)
    lines = (request_line, "Host: x", f"Authorization: Bearer {api.token}", *headers, "", "")
    writer.write("\r\n".join(lines).encode())
    try:
        async with asyncio.timeout(timeout_s):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def test_head_gets_the_headers_and_no_stream(api: Api) -> None:
    request_id = (await api.create_async(model="offline/slow-20s")).json["id"]
    for path in (f"/api/requests/{request_id}/events", "/api/requests/events"):
        head, _, body = (await _raw(api, f"HEAD {path} HTTP/1.1", "Connection: close")).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"Content-Type: text/event-stream" in head
        assert body == b""


@pytest.mark.parametrize("headers", [[], ["Connection: keep-alive"]])
async def test_a_client_of_http_1_0_sees_the_end_by_the_connection(api: Api, headers: list[str]) -> None:
    request_id = (await api.create("hello")).json["id"]
    data = await _raw(api, f"GET /api/requests/{request_id}/events HTTP/1.0", *headers)
    assert b"Transfer-Encoding" not in data
    assert b"event: completed" in data
    assert data.endswith(b"}\n\n")


@pytest.mark.parametrize("last", ["é", "\U0001f600", "٣.1-1", "x" * 5000, "1.1", "-1.1-1"])
async def test_any_last_event_id_that_is_not_ours_makes_the_reader_begin_anew(api: Api, last: str) -> None:
    request_id = (await api.create("hello")).json["id"]
    headers = (f"Last-Event-ID: {last}", "Connection: close")
    data = await _raw(api, f"GET /api/requests/{request_id}/events HTTP/1.1", *headers)
    assert data.count(b"event: reset") == data.count(b"event: completed") == 1


async def test_after_is_said_once(api: Api) -> None:
    request_id = (await api.create("hello")).json["id"]
    reply = await api.get(f"/api/requests/{request_id}/events?after=1.1-1&after=1.1-2")
    assert (reply.status, reply.json["errors"][0]["field"]) == (422, "after")


@pytest.mark.parametrize(
    ("accept", "is_stream"),
    [
        ("*/*", False),
        ("text/event-stream;q=0", False),
        ("text/html, text/event-stream;q=0.1", True),
        ("application/json, text/event-stream", True),
    ],
)
async def test_only_who_asks_for_a_stream_gets_one(api: Api, accept: str, *, is_stream: bool) -> None:
    reply = await api.create("hello", headers={"Accept": accept})
    assert reply.headers["Content-Type"].startswith("text/event-stream" if is_stream else "application/json")


async def test_streams_beyond_the_limit_are_told_when_to_come_back(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    request_id = (await api.create("hello")).json["id"]
    monkeypatch.setattr(subscriptions, "MAX_WATCHES", 0)
    monkeypatch.setattr(feeds, "MAX_FEEDS", 0)
    refused = [
        await api.get(f"/api/requests/{request_id}/events"),
        await api.get("/api/requests/events"),
        await api.create("hello", headers={"Accept": "text/event-stream"}),
    ]
    assert [(reply.status, reply.headers["Retry-After"]) for reply in refused] == [(503, "5")] * 3
    assert len((await api.get("/api/requests")).json) == 1


@pytest.mark.parametrize(
    ("accept", "is_stream"),
    [
        ("application/json, text/event-stream;q=0.5", False),
        ("text/event-stream;q=0.5, */*", False),
        ("text/event-stream; Q=.5, application/*;q=0.8", False),
        ("text/event-stream, application/json;q=0.9", True),
        ("text/event-stream;q=0.5, */*;q=0.1", True),
        ("text/event-stream;q=0.5, application/json;q=0.4, */*", True),
        ("text/event-stream;q=0.3, text/html", True),
    ],
)
async def test_s5_the_quality_values_of_accept_decide(api: Api, accept: str, *, is_stream: bool) -> None:
    reply = await api.create("hello", headers={"Accept": accept})
    assert reply.headers["Content-Type"].startswith("text/event-stream" if is_stream else "application/json")
