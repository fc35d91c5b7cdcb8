"""A model server of one's own: without a list in the settings, the models that it lists can be named."""

from typing import Any

import pytest

from server.http import keys
from tests.acceptance.conftest import Api, Start
from tests.acceptance.openai_upstream import start_online
from tests.fakes.huggingface import FakeHuggingFace, chat_answer, error_answer
from tests.signals import until

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


def own(*models: str, **options: Any) -> FakeHuggingFace:
    return FakeHuggingFace(default=lambda _: chat_answer("Hello"), models=list(models), **options)


async def ids(api: Api) -> list[str]:
    return [model["id"] for model in (await api.get("/v1/models")).json["data"]]


async def test_around_models_that_an_own_server_lists_are_offered_and_accepted(start: Start) -> None:
    async with own("llama3:latest", "/models/own.gguf") as upstream:
        api = await start_online(start, upstream, text_models="")
        assert await ids(api) == ["default", "llama3:latest", "/models/own.gguf"]
        assert (await api.get("/v1/models/llama3:latest")).json["id"] == "llama3:latest"
        for name in ("llama3:latest", "llama3", "/models/own.gguf"):
            answer = await api.post("/v1/chat/completions", CHAT | {"model": name})
            assert answer.status == 200, answer.body
            assert upstream.calls[-1].model == name
        item = (await api.create(model="llama3:latest")).json
        assert (item["status"], item["model"]) == ("completed", "llama3:latest")


async def test_around_a_model_that_an_own_server_does_not_list_is_refused_by_name(start: Start) -> None:
    async with own("llama3:latest") as upstream:
        api = await start_online(start, upstream, text_models="")
        answer = await api.post("/v1/chat/completions", CHAT | {"model": "mistral"})
        assert (answer.status, answer.json["error"]["code"]) == (404, "model_not_found")
        assert (await api.get("/v1/models/mistral")).status == 404
        refused = await api.create(model="mistral")
        assert (refused.status, [error["field"] for error in refused.json["errors"]]) == (422, ["model"])
        assert upstream.calls == []


async def test_around_a_model_that_is_newer_than_the_list_is_found(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.inference.events.RECHECK_S", 0.0)
    async with own("llama3:latest") as upstream:
        api = await start_online(start, upstream, text_models="")
        assert await ids(api) == ["default", "llama3:latest"]
        upstream.models = ["llama3:latest", "mistral:latest"]
        assert (await api.create(model="mistral")).json["status"] == "completed"
        assert await ids(api) == ["default", "llama3:latest", "mistral:latest"]


@pytest.mark.parametrize("settings", [{"text_models": "llama3"}, {"text_models": "", "allowed_models": "llama3"}])
async def test_around_settings_that_name_models_are_the_whole_offer(start: Start, settings: dict[str, str]) -> None:
    async with own("llama3", "gpt-4") as upstream:
        api = await start_online(start, upstream, **settings)
        assert await ids(api) == ["default", "llama3"]
        assert (await api.create(model="gpt-4")).status == 422
        assert (await api.create(model="llama3")).status == 200


async def test_around_without_a_list_the_own_server_decides(start: Start) -> None:
    for listing in (error_answer(404), error_answer(503)):
        async with own(listing=listing) as upstream:
            api = await start_online(start, upstream, text_models="")
            assert await ids(api) == ["default"]
            assert (await api.create(model="some/model")).json["status"] == "completed"
            assert upstream.calls[-1].model == "some/model"
            assert (await api.create(model="no model")).status == 422


@pytest.mark.parametrize("is_there", [True, False])
async def test_p4_strangers_see_no_address_of_the_upstream(start: Start, is_there: bool) -> None:  # noqa: FBT001
    async with own("llama3") as upstream:
        base_url = f"{upstream.url if is_there else 'http://127.0.0.1:9'}/hidden-path/v1"
        api = await start_online(start, upstream, text_models="", hf_base_url=base_url)
        await until(lambda: api.app[keys.ENGINE].upstream_state is not None)
        reply = await api.get("/health")
        assert reply.json["upstream"]["ok"] == is_there
        assert not [word for word in (b"127.0.0.1", b"hidden-path", b"/v1") if word in reply.body]
