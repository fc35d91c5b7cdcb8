"""`/v1` beneath its clients: what ends a call, and who leaves it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from aiohttp import ClientResponse

from server.actors.journal import Journal
from server.actors.subscription import View
from server.http import keys
from server.model_request import RequestId, Status
from server.routes import openai
from tests.acceptance.conftest import Api, Reply, Start
from tests.acceptance.openai_upstream import BROKEN, SILENT, STALLED, start_online
from tests.fakes.huggingface import FakeHuggingFace, chat_answer, error_answer
from tests.signals import log_lines

PATH = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]
KEY = {"Idempotency-Key": "k"}


@pytest.fixture
async def upstream() -> AsyncIterator[FakeHuggingFace]:
    async with FakeHuggingFace() as fake:
        yield fake


@pytest.fixture
async def online(start: Start, upstream: FakeHuggingFace) -> Api:
    return await start_online(start, upstream)


async def ask(api: Api, *, headers: dict[str, str] | None = None, **fields: Any) -> Reply:
    return await api.post(PATH, {"model": "default", "messages": HELLO, **fields}, headers=headers)


@asynccontextmanager
async def streamed(api: Api, *, headers: dict[str, str] | None = None, **fields: Any) -> AsyncIterator[ClientResponse]:
    """An open stream; leaving the block closes its connection."""
    body = {"model": "default", "messages": HELLO, "stream": True, **fields}
    headers = {"Authorization": f"Bearer {api.token}", **(headers or {})}
    async with api.client.post(PATH, json=body, headers=headers) as response:
        try:
            yield response
        finally:
            response.close()


async def lines_of(response: ClientResponse) -> list[str]:
    """Everything that the stream says, a line for each event and comment."""
    async with asyncio.timeout(20):
        return [line for line in (await response.text()).split("\n") if line]


async def newest(api: Api) -> dict[str, Any]:
    request: dict[str, Any] = (await api.get("/api/requests?limit=1")).json[0]
    return request


async def ended(api: Api) -> dict[str, Any]:
    """The newest request, when it is final."""
    request: dict[str, Any] = (await api.get(f"/api/requests/{(await newest(api))['id']}?wait=20")).json
    return request


async def _leave(call: "asyncio.Task[Any]") -> float:
    """Close the connection of a call; when that was."""
    call.cancel()
    await asyncio.wait({call})
    return asyncio.get_running_loop().time()


async def _closed_after(upstream: FakeHuggingFace, left_at: float) -> float:
    async with asyncio.timeout(5):
        await upstream.abandoned.wait()
    return asyncio.get_running_loop().time() - left_at


async def _first_text(api: Api, heard: asyncio.Event) -> None:
    async with streamed(api) as response:
        async for line in response.content:
            if b"Once" in line:
                heard.set()
        raise AssertionError("the stream must not end")


@pytest.mark.parametrize("stream", [False, True])
async def test_who_leaves_before_the_first_token_cancels(
    online: Api, upstream: FakeHuggingFace, *, stream: bool
) -> None:
    upstream.answer(SILENT)
    call = asyncio.create_task(ask(online, stream=stream))
    await upstream.called.wait()
    closed_s = await _closed_after(upstream, await _leave(call))
    request = await ended(online)
    assert (request["status"], request["output_data"]) == ("cancelled", None)
    assert closed_s < 1


async def test_who_leaves_a_whole_answer_in_the_middle_cancels(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(STALLED)
    call = asyncio.create_task(ask(online))
    await upstream.called.wait()
    await _text_comes(online)
    assert await _closed_after(upstream, await _leave(call)) < 1
    request = await ended(online)
    assert (request["status"], request["output_data"]["partial"]) == ("cancelled", True)


async def _text_comes(api: Api) -> None:
    """Until there is text of the only request that runs."""
    [running] = api.app[keys.ENGINE].workload._running.values()
    comes = asyncio.Event()
    running.transcript.readers.add(comes.set)
    if not running.transcript.length:
        async with asyncio.timeout(5):
            await comes.wait()
    running.transcript.readers.discard(comes.set)


async def test_who_leaves_a_stream_in_the_middle_cancels(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(STALLED)
    heard = asyncio.Event()
    call = asyncio.create_task(_first_text(online, heard))
    await heard.wait()
    assert await _closed_after(upstream, await _leave(call)) < 1
    request = await ended(online)
    assert request["status"] == "cancelled"
    assert request["output_data"]["output"].startswith("Once ")


async def test_who_leaves_while_it_waits_for_its_turn_cancels(start: Start, upstream: FakeHuggingFace) -> None:
    upstream.answer(STALLED)
    api = await start_online(start, upstream, concurrency=1)
    await api.create_async()
    await upstream.called.wait()
    with log_lines() as log:
        call = asyncio.create_task(ask(api))
        await log.wait("request_accepted")
    await _leave(call)
    assert (await ended(api))["status"] == "cancelled"
    assert len(upstream.calls) == 1


async def test_who_leaves_before_the_request_is_stored_cancels(
    online: Api, upstream: FakeHuggingFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepting, go_on = asyncio.Event(), asyncio.Event()
    original = Journal.accept

    async def slow(self: Journal, row: Any) -> Any:
        accepting.set()
        await go_on.wait()
        return await original(self, row)

    monkeypatch.setattr(Journal, "accept", slow)
    upstream.answer(SILENT)
    call = asyncio.create_task(ask(online))
    await accepting.wait()
    await _leave(call)
    with log_lines() as log:
        go_on.set()
        await log.wait("request_accepted")
    assert (await ended(online))["status"] == "cancelled"


async def test_text_that_starts_anew_ends_the_stream_and_cancels(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(STALLED)
    async with streamed(online) as response:
        await response.content.readuntil(b"Once")
        request_id = RequestId(UUID((await newest(online))["id"]))
        online.app[keys.REQUESTS].subscriptions.publish(request_id, View(Status.PROCESSING, 2))  # as after a rescue
        *_, last = await lines_of(response)
    assert "cannot be taken back" in json.loads(last.removeprefix("data: "))["error"]["message"]
    assert (await ended(online))["status"] == "cancelled"


async def test_a_connection_that_is_used_again_is_watched_again(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(chat_answer("one"), SILENT)
    assert (await ask(online)).status == 200
    upstream.called.clear()
    call = asyncio.create_task(ask(online))
    await upstream.called.wait()
    assert await _closed_after(upstream, await _leave(call)) < 1
    assert (await ended(online))["status"] == "cancelled"


async def test_nobody_watches_after_the_answer(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.default = lambda _: chat_answer("one")
    for _ in range(3):
        await ask(online)
        await ask(online, stream=True)
    assert len(online.app[keys.REQUESTS].subscriptions) == 0


async def test_who_sends_a_key_may_leave_a_stream(online: Api, upstream: FakeHuggingFace) -> None:
    slow = chat_answer("Once ", "upon")
    upstream.answer(type(slow)(slow.status, slow.headers, slow.pieces, pause_s=0.1))
    async with streamed(online, headers=KEY) as response:
        await response.content.readuntil(b"Once")
    request = await ended(online)
    assert (request["status"], request["output_data"]["output"]) == ("completed", "Once upon")


async def test_who_sends_a_key_may_leave_and_come_back(online: Api, upstream: FakeHuggingFace) -> None:
    slow = chat_answer("one ", "two")
    upstream.answer(type(slow)(slow.status, slow.headers, slow.pieces, pause_s=0.1))
    call = asyncio.create_task(ask(online, headers=KEY))
    await upstream.called.wait()
    await _leave(call)
    again = await ask(online, headers=KEY)
    assert (again.status, again.json["choices"][0]["message"]["content"]) == (200, "one two")
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len(upstream.calls) == 1


async def test_a_repeated_key_gives_the_same_answer_and_another_body_is_refused(
    online: Api, upstream: FakeHuggingFace
) -> None:
    upstream.answer(chat_answer("one"))
    first, second = await ask(online, headers=KEY), await ask(online, headers=KEY)
    assert first.json == second.json
    other = await ask(online, headers=KEY, temperature=1)
    assert (other.status, other.json["error"]["type"]) == (400, "invalid_request_error")
    assert "used with another body" in other.json["error"]["message"]


async def test_a_repeated_key_streams_the_same_text_again(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(chat_answer("one ", "two"))
    seen = []
    for _ in range(2):
        async with streamed(online, headers=KEY) as response:
            events = [json.loads(line.removeprefix("data: ")) for line in (await lines_of(response))[:-1]]
            seen.append("".join(event["choices"][0]["delta"].get("content", "") for event in events))
    assert seen == ["one two", "one two"]


async def test_an_answer_names_its_model_request(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(chat_answer("one"))
    reply = await ask(online, headers={"X-Request-Id": "mine"})
    assert reply.headers["X-Request-Id"] == "mine"
    stored = await online.get(reply.headers["Location"])
    assert reply.json["id"] == f"chatcmpl-{stored.json['id']}"
    assert stored.json["input_data"] == {"messages": HELLO}


async def test_only_a_call_that_is_held_ends_with_its_wait(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.default = lambda _: chat_answer("one")
    seconds = []
    for stream in (False, True):
        await ask(online, stream=stream)
        request = await newest(online)
        deadline_at, created_at = (datetime.fromisoformat(request[name]) for name in ("deadline_at", "created_at"))
        seconds.append((deadline_at - created_at).total_seconds())
    assert seconds == [90, 600]


async def test_a_call_that_is_not_done_in_time_fails_by_its_deadline(start: Start, upstream: FakeHuggingFace) -> None:
    upstream.answer(SILENT)
    api = await start_online(start, upstream, max_wait_s=1)
    reply = await ask(api)
    assert (reply.status, reply.json["error"]["code"]) == (504, "model_timeout")
    assert (await api.get(reply.headers["Location"])).json["status"] == "failed"


async def test_a_call_that_is_cancelled_elsewhere_says_so(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(STALLED)
    call = asyncio.create_task(ask(online))
    await upstream.called.wait()
    await online.post(f"/api/requests/{(await newest(online))['id']}/cancel")
    reply = await call
    assert (reply.status, reply.json["error"]["code"], reply.headers["x-should-retry"]) == (409, "cancelled", "false")


async def test_a_stream_that_has_nothing_to_say_begins_and_then_fails_in_its_own_way(
    online: Api, upstream: FakeHuggingFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai, "HOLD_S", 0.05)
    refused = error_answer(402, "You have depleted your monthly included credits.")
    upstream.answer(type(refused)(refused.status, refused.headers, refused.pieces, delay_s=0.5))
    async with streamed(online) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        *comments, last = await lines_of(response)
    assert len(comments) > 2
    assert set(comments) == {": still here"}
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "model_error"


async def test_a_stream_that_breaks_ends_without_its_last_word(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(BROKEN)
    async with streamed(online) as response:
        *_, last = await lines_of(response)
    assert "error" in json.loads(last.removeprefix("data: "))


async def test_a_server_that_stops_says_so_in_a_stream(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(STALLED)
    async with streamed(online) as response:
        await response.content.readuntil(b"Once")
        assert await online.app[keys.ENGINE].drain(timeout_s=0, hurry=asyncio.Event())
        *_, last = await lines_of(response)
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "unavailable"
    assert (await newest(online))["status"] == "pending", "it goes on elsewhere"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_server_that_stops_refuses_who_waits(online: Api, upstream: FakeHuggingFace, *, stream: bool) -> None:
    upstream.answer(SILENT)
    call = asyncio.create_task(ask(online, stream=stream))
    await upstream.called.wait()
    assert await online.app[keys.ENGINE].drain(timeout_s=0, hurry=asyncio.Event())
    reply = await call
    assert (reply.status, reply.json["error"]["code"]) == (503, "unavailable")
    assert reply.headers["Retry-After"]
    assert reply.headers["Location"].startswith("/api/requests/")
