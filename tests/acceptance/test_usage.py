"""Usage as upstream counted it: in the row, on `/api`, on `/v1`, and for requests that were cancelled or broke off."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from server.http import keys
from server.model_request import RequestId, Usage
from tests.acceptance.conftest import Api, Start, created
from tests.acceptance.openai_upstream import start_online
from tests.fakes.event_source import final_of
from tests.fakes.huggingface import Answer, End, FakeHuggingFace, chat_answer, event
from tests.rows import connected
from tests.signals import until

PATH = "/v1/chat/completions"
ASK: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": "hello"}]}
COUNTED: dict[str, Any] = {
    "prompt_tokens": 32,
    "completion_tokens": 103,
    "total_tokens": 135,
    "prompt_tokens_details": {"cached_tokens": 30},
    "completion_tokens_details": {"reasoning_tokens": 94},
}
STORED = {"token_used": 135, "token_count": 103, "usage": COUNTED}


@pytest.fixture
async def upstream() -> AsyncIterator[FakeHuggingFace]:
    async with FakeHuggingFace() as fake:
        yield fake


@pytest.fixture
async def online(start: Start, upstream: FakeHuggingFace) -> Api:
    return await start_online(start, upstream)


def answer(usage: dict[str, Any]) -> Answer:
    """A stream with this usage at its end."""
    text = chat_answer("hi", usage=None, done=False)
    last = (event({"choices": [], "usage": usage}), b"data: [DONE]\n\n")
    return replace(text, pieces=text.pieces + last)


def growing(*counts: dict[str, Any], end: End = End.STALL) -> Answer:
    """An answer that stops in the middle, with usage in each of its chunks."""
    pieces = tuple(
        event({"choices": [{"index": 0, "delta": {"content": f"word{number} "}}], "usage": usage})
        for number, usage in enumerate(counts)
    )
    return Answer(200, chat_answer().headers, pieces, pause_s=0.02, end=end)


def counts(prompt: int, completion: int, **details: Any) -> dict[str, Any]:
    total = prompt + completion
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total, **details}


def part_of(request: dict[str, Any]) -> dict[str, Any]:
    return {name: request[name] for name in STORED}


def counted_of(api: Api, request_id: str) -> Usage:
    """What upstream has counted so far for a request that runs."""
    running = api.app[keys.ENGINE].workload.get(RequestId(UUID(request_id)))
    return Usage() if running is None else running.usage


async def day_of(database: str, api: Api) -> dict[str, Any]:
    """The user's sums of today."""
    query = "SELECT * FROM usage_daily WHERE user_id = $1 AND day = $2"
    async with connected(database) as connection:
        row = await connection.fetchrow(query, UUID(api.user_id), datetime.now(UTC).date())
        assert row is not None
        return dict(row)


async def test_u3_details_of_usage_are_in_every_view_of_the_request(
    online: Api, upstream: FakeHuggingFace, database: str
) -> None:
    upstream.answer(answer(COUNTED), answer(COUNTED))
    waited = (await online.create()).json
    async with created(online) as source:
        streamed = final_of(await source.all()).data
    one = (await online.get(f"/api/requests/{waited['id']}")).json
    history = (await online.get("/api/requests")).json
    assert [part_of(item) for item in (waited, streamed, one, *history)] == [STORED] * 5
    async with connected(database) as connection:
        rows = await connection.fetch("SELECT token_used, token_count, usage FROM model_requests")
    assert [(row["token_used"], row["token_count"], json.loads(row["usage"])) for row in rows] == [
        (135, 103, COUNTED)
    ] * 2
    day = await day_of(database, online)
    assert (day["completed"], day["token_used"], day["token_count"]) == (2, 270, 206)


async def test_u3_openais_clients_get_usage_in_full(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(answer(COUNTED), answer(COUNTED))
    whole = await online.post(PATH, ASK)
    assert whole.json["usage"] == COUNTED
    stream = await online.post(PATH, {**ASK, "stream": True, "stream_options": {"include_usage": True}})
    *_, last, done, _ = stream.body.split(b"\n\n")
    assert (json.loads(last.removeprefix(b"data: "))["usage"], done) == (COUNTED, b"data: [DONE]")


@pytest.mark.parametrize(
    ("given", "details"),
    [
        ({"prompt_cache_hit_tokens": 3}, {"prompt_tokens_details": {"cached_tokens": 3}}),
        ({"cached_tokens": 3}, {"prompt_tokens_details": {"cached_tokens": 3}}),
        ({"cache_read_input_tokens": 3.0}, {"prompt_tokens_details": {"cached_tokens": 3}}),
        ({"reasoning_tokens": 1}, {"completion_tokens_details": {"reasoning_tokens": 1}}),
        ({"prompt_tokens_details": None, "completion_tokens_details": {"reasoning_tokens": None}}, {}),
        ({"prompt_tokens_details": [1], "completion_tokens_details": {"reasoning_tokens": -1, "x": 5}}, {}),
    ],
)
async def test_u3_details_are_found_in_every_place_and_never_invented(
    online: Api, upstream: FakeHuggingFace, given: dict[str, Any], details: dict[str, Any]
) -> None:
    upstream.answer(answer(counts(5, 2, **given)))
    assert (await online.create()).json["usage"] == counts(5, 2) | details


async def test_u3_what_was_not_counted_is_absent(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(chat_answer("hi", usage=None), answer({"total_tokens": 7}))
    assert part_of((await online.create()).json) == {"token_used": None, "token_count": None, "usage": None}
    assert part_of((await online.create()).json) == {
        "token_used": 7,
        "token_count": None,
        "usage": {"total_tokens": 7},
    }


async def test_u4_a_cancelled_request_has_the_usage_that_upstream_reported_last(
    online: Api, upstream: FakeHuggingFace, database: str
) -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 3}}
    upstream.answer(growing(counts(5, 1), counts(5, 2, **details)))
    async with created(online) as source:
        request_id = (await source.until("status"))[0].data["id"]
        await until(lambda: counted_of(online, request_id).token_count == 2)
        await online.post(f"/api/requests/{request_id}/cancel")
        final = final_of(await source.all())
    wanted = {"token_used": 7, "token_count": 2, "usage": counts(5, 2) | details}
    assert (final.name, part_of(final.data)) == ("cancelled", wanted)
    assert part_of((await online.get(f"/api/requests/{request_id}")).json) == wanted
    day = await day_of(database, online)
    assert (day["cancelled"], day["token_used"], day["token_count"]) == (1, 7, 2)


async def test_u4_a_client_of_openai_that_leaves_pays_for_what_was_counted(
    online: Api, upstream: FakeHuggingFace, database: str
) -> None:
    upstream.answer(growing(counts(5, 1), counts(5, 2), counts(5, 3)))
    headers = {"Authorization": f"Bearer {online.token}"}
    async with online.client.post(PATH, json={**ASK, "stream": True}, headers=headers) as response:
        await response.content.readuntil(b"word2")
        response.close()
    async with asyncio.timeout(5):
        await upstream.abandoned.wait()
    [item] = (await online.get("/api/requests")).json
    request = (await online.get(f"/api/requests/{item['id']}?wait=20")).json
    assert (request["status"], request["token_used"], request["token_count"]) == ("cancelled", 8, 3)
    day = await day_of(database, online)
    assert (day["cancelled"], day["token_used"]) == (1, 8)


async def test_u4_an_answer_that_breaks_off_has_the_usage_that_was_counted(
    online: Api, upstream: FakeHuggingFace, database: str
) -> None:
    upstream.answer(growing(counts(5, 1), counts(5, 2), end=End.CUT))
    request = (await online.create()).json
    assert (request["status"], request["output_data"]["partial"]) == ("failed", True)
    assert part_of(request) == {"token_used": 7, "token_count": 2, "usage": counts(5, 2)}
    day = await day_of(database, online)
    assert (day["failed"], day["token_used"]) == (1, 7)


async def test_u4_a_cancel_before_any_text_keeps_what_was_counted_of_the_prompt(
    online: Api, upstream: FakeHuggingFace
) -> None:
    first = event({"choices": [{"index": 0, "delta": {"role": "assistant"}}], "usage": {"prompt_tokens": 32}})
    upstream.answer(Answer(200, chat_answer().headers, (first,), end=End.STALL))
    request_id = (await online.create_async()).json["id"]
    await until(lambda: counted_of(online, request_id).prompt == 32)
    await online.post(f"/api/requests/{request_id}/cancel")
    request = (await online.get(f"/api/requests/{request_id}?wait=5")).json
    assert (request["status"], request["token_used"], request["usage"]) == ("cancelled", None, {"prompt_tokens": 32})
