"""The four calls of the published Android client, sent as it sends them."""

import asyncio
from typing import Any

import pytest

from tests.acceptance.conftest import PASSWORD, Api, Start
from tests.signals import log_lines

OKHTTP_HEADERS = {"User-Agent": "okhttp/4.12.0", "Accept-Encoding": "gzip"}
CONTENT_TYPE = {"Content-Type": "application/json; charset=UTF-8"}


async def test_sign_up_answers_2xx_with_an_object(start: Start) -> None:
    api = await start()
    reply = await api.post("/api/auth/signup", {"email": "a@example.com", "password": PASSWORD}, headers=OKHTTP_HEADERS)
    assert reply.status == 201
    assert reply.json["user"]["email"] == "a@example.com"


@pytest.mark.parametrize("path", ["/auth/signin", "/api/auth/signin"])
async def test_sign_in_answers_with_a_token(start: Start, path: str) -> None:
    api = await start()
    await api.sign_up("a@example.com")
    reply = await api.post(path, {"email": "a@example.com", "password": PASSWORD}, headers=OKHTTP_HEADERS)
    assert reply.status == 200
    assert reply.json["token"].count(".") == 2


async def test_create_answers_with_the_final_object(api: Api) -> None:
    body = b'{"input_data":{"prompt":"Tell me a story"},"model_type":"text2text"}'
    reply = await api.send("POST", "/api/requests", data=body, headers=OKHTTP_HEADERS | CONTENT_TYPE)
    assert reply.status == 200
    assert reply.json["status"] == "completed"
    assert not reply.json["error_msg"]
    assert "Tell me a story" in reply.json["output_data"]["output"]


async def test_list_answers_with_a_bare_array(api: Api) -> None:
    created = await api.create("hello")
    reply = await api.get("/api/requests", headers=OKHTTP_HEADERS)
    assert reply.status == 200
    assert isinstance(reply.json, list)
    assert [item["id"] for item in reply.json] == [created.json["id"]]
    assert reply.json[0] == created.json


async def test_the_request_object_has_the_fields_of_the_contract(api: Api) -> None:
    item: dict[str, Any] = (await api.create("hello")).json
    assert list(item) == [
        "id", "created_at", "completed_at", "user_id", "status", "model_type", "model", "input_data", "output_data",
        "error_msg", "error_code", "upstream_error", "token_used", "token_count", "usage", "cost_usd",
        "processing_time", "attempt", "queue_position", "deadline_at",
    ]  # fmt: skip
    assert item["created_at"].endswith("Z")
    assert item["completed_at"].endswith("Z")
    assert isinstance(item["processing_time"], float)
    assert item["queue_position"] is None


async def test_a_create_outlives_the_client_that_left(start: Start) -> None:
    api = await (await start()).sign_up()
    with log_lines() as log:
        creating = asyncio.create_task(api.create("hello", model="offline/slow-2s"))
        await log.wait("request_accepted")
    creating.cancel()
    await asyncio.wait({creating})
    [item] = (await api.get("/api/requests")).json
    reply = await api.get(f"/api/requests/{item['id']}?wait=10")
    assert reply.json["status"] == "completed"
