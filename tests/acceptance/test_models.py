"""GET /api/models: what can be asked for, and what upstream lists at the moment."""

import asyncio
import time
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from server.catalog import MODEL_TYPES
from tests.acceptance.conftest import Api, Reply, Start
from tests.fakes.huggingface import Answer, End, FakeHuggingFace, json_answer
from tests.fixtures.document import DOCUMENT
from tests.unit.inference.test_live_listing import ROUTER


def check(reply: Reply) -> Any:
    """The body, as the document describes it."""
    assert reply.status == 200, reply.body
    answer = DOCUMENT["paths"]["/api/models"]["get"]["responses"]["200"]
    schema = answer["content"]["application/json"]["schema"] | {"components": DOCUMENT["components"]}
    jsonschema.Draft202012Validator(schema).validate(reply.json)
    return reply.json


async def serving(start: Start, fake: FakeHuggingFace) -> Api:
    api = await start(hf_base_url=fake.url, hf_api_token="hf_test", inference_backend="huggingface")
    return await api.sign_up()


@pytest.mark.parametrize("path", ["/api/models", "/models"])
async def test_the_offline_double_offers_its_types_and_lists_nothing(api: Api, path: str) -> None:
    shown = check(await api.get(path))
    assert shown["live"] is None
    assert {entry["model_type"] for entry in shown["model_types"]} == {model_type.name for model_type in MODEL_TYPES}
    text = next(entry for entry in shown["model_types"] if entry["task"] == "chat-completion")
    assert text["models"] == ["offline/echo"]
    assert "temperature" in text["parameters"]["properties"]


async def test_the_example_of_the_document_is_an_answer_of_this_server(api: Api) -> None:
    answer = DOCUMENT["paths"]["/api/models"]["get"]["responses"]["200"]["content"]["application/json"]
    [example] = answer["examples"]["example"]["value"]["model_types"]
    shown = {entry["model_type"]: entry for entry in check(await api.get("/api/models"))["model_types"]}
    assert example.keys() == shown[example["model_type"]].keys()
    assert set(DOCUMENT["components"]["schemas"]["ModelType"]["required"]) == example.keys()
    for name in ("aliases", "task", "example"):
        assert example[name] == shown[example["model_type"]][name]


async def test_what_the_router_lists_is_shown_with_its_providers(start: Start) -> None:
    async with FakeHuggingFace(listing=json_answer(ROUTER)) as fake:
        api = await serving(start, fake)
        live = check(await api.get("/api/models"))["live"]
    assert not live["is_stale"]
    [model] = live["models"]
    assert model["id"] == "zai-org/GLM-4.7"
    assert model["providers"][0] == {
        "provider": "novita",
        "status": "live",
        "context_length": 204800,
        "pricing": {"input": 0.6, "output": 2.2},
        "supports_tools": True,
    }


async def test_an_upstream_that_does_not_answer_is_not_waited_for(start: Start, patience: float) -> None:
    async with FakeHuggingFace(listing=Answer(is_silent=True, end=End.STALL)) as fake:
        api = await serving(start, fake)
        began = time.monotonic()
        shown = check(await api.get("/api/models"))
        assert time.monotonic() - began < 2 + 0.5 * patience
    assert shown["live"] is None
    assert shown["model_types"]


async def test_many_readers_are_one_question(start: Start) -> None:
    async with FakeHuggingFace(models=["org/model"]) as fake:
        api = await serving(start, fake)
        asked_before = len(fake.received)  # the check at the start
        replies = await asyncio.gather(*(api.get("/api/models") for _ in range(20)))
        assert {check(reply)["live"]["models"][0]["id"] for reply in replies} == {"org/model"}
        assert len(fake.received) <= asked_before + 2


async def test_what_did_not_change_is_not_sent_again(api: Api) -> None:
    first = await api.get("/api/models")
    assert first.headers["Cache-Control"] == "private, no-cache"
    again = await api.get("/api/models", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    other = await api.get("/api/models", headers={"If-None-Match": '"other"'})
    assert other.status == 200


async def test_strangers_are_not_told(api: Api) -> None:
    assert (await Api(api.client, api.app).get("/api/models")).status == 401
