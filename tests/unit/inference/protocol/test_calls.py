"""Calls as they go over the wire."""

from typing import Any

import orjson
import pytest
from huggingface_hub.inference._providers import get_provider_helper

from server.inference.events import Call, Task
from server.inference.protocol import BadModel, WireRequest, build, build_listing, build_probe, read_models
from server.inference.protocol.texts import Unintelligible

ROUTER = "https://router.huggingface.co"


def chat(model: str | None = "org/name", *, base_url: str = ROUTER, **parameters: Any) -> WireRequest:
    call = Call(Task.CHAT_COMPLETION, (), {"prompt": "Hello"}, parameters)
    return build(call, model, base_url=base_url)


def generation(model: str | None, *, base_url: str = ROUTER, **parameters: Any) -> WireRequest:
    call = Call(Task.TEXT_GENERATION, (), {"prompt": "Once"}, parameters)
    return build(call, model, base_url=base_url)


def body_of(wire: WireRequest) -> dict[str, Any]:
    assert isinstance(wire.body, bytes)
    body: dict[str, Any] = orjson.loads(wire.body)
    return body


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        (ROUTER, f"{ROUTER}/v1/chat/completions"),
        ("http://localhost:11434/v1", "http://localhost:11434/v1/chat/completions"),
        ("http://localhost:11434/v1/", "http://localhost:11434/v1/chat/completions"),
        ("http://localhost:8080", "http://localhost:8080/v1/chat/completions"),
        ("https://x.example/v3/openai/chat/completions", "https://x.example/v3/openai/chat/completions"),
    ],
)
def test_the_address_follows_the_rule_of_the_official_clients(base_url: str, url: str) -> None:
    assert chat(base_url=base_url).url == url


def test_a_prompt_is_asked_as_one_message_and_streamed() -> None:
    wire = chat()
    assert next(iter(body_of(wire))) == "model"
    assert body_of(wire) == {
        "model": "org/name",
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert wire.headers["Accept"] == "application/json, text/event-stream"
    assert "Authorization" not in wire.headers


def test_messages_are_passed_on_as_they_are() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    wire = build(Call(Task.CHAT_COMPLETION, (), {"messages": messages}), "a/b", base_url=ROUTER)
    assert body_of(wire)["messages"] == messages


def test_parameters_of_chat_are_passed_on() -> None:
    parameters: dict[str, Any] = {
        "max_tokens": 5,
        "temperature": 0,
        "top_p": 0.5,
        "stop": ["x"],
        "seed": 1,
        "presence_penalty": -1,
    }
    assert parameters.items() <= body_of(chat(**parameters)).items()


EXTRA = '{"zz":{"b":1,"a":2},"top_p":0.1,"model":"x/y","messages":[],"prompt":"","stream":false}'
"""More than the catalog lets through."""


def test_extra_fields_are_added_in_their_order_and_replace_nothing() -> None:
    wire = chat(top_p=0.5, extra=EXTRA)
    body = body_of(wire)
    assert next(iter(body)) == "model"
    assert list(body["zz"]) == ["b", "a"]
    assert (body["model"], body["top_p"], body["stream"]) == ("org/name", 0.5, True)
    assert (body["messages"], "extra" in body) == ([{"role": "user", "content": "Hello"}], False)


def test_extra_fields_of_raw_generation_are_added_where_its_parameters_are() -> None:
    completion = body_of(generation("org/name:featherless-ai", top_p=0.5, max_new_tokens=5, extra=EXTRA))
    assert (completion["model"], completion["prompt"], completion["top_p"]) == ("org/name", "Once", 0.5)
    assert (completion["stream"], completion["max_tokens"], completion["zz"]) == (True, 5, {"b": 1, "a": 2})
    tgi = body_of(generation("org/name", extra='{"typical_p":0.9}'))
    assert tgi["parameters"] == {"typical_p": 0.9, "return_full_text": False}
    assert tgi.keys() == {"inputs", "parameters", "stream"}


def test_a_server_without_names_is_asked_without_one() -> None:
    assert "model" not in body_of(chat(None, base_url="http://localhost:8080"))


@pytest.mark.parametrize("model", ["name", "../..", "a/..", "a/b/c", "a/b:C", "a b/c", "a/b?c", "a/b#c", "", "a/b\n"])
@pytest.mark.parametrize("ask", [chat, generation])
def test_the_router_is_never_asked_for_what_is_no_model(model: str, ask: Any) -> None:
    with pytest.raises(BadModel):
        ask(model)


def test_other_servers_name_their_models_as_they_like() -> None:
    assert body_of(chat("llama3.2:latest", base_url="http://localhost:11434/v1"))["model"] == "llama3.2:latest"


@pytest.mark.parametrize("suffix", ["", ":hf-inference", ":fastest"])
def test_raw_generation_without_a_provider_goes_to_hf_inference(suffix: str) -> None:
    wire = generation(f"org/na.me-1{suffix}", max_new_tokens=5, stop="x", do_sample=False)
    assert wire.url == f"{ROUTER}/hf-inference/models/org/na.me-1"
    assert body_of(wire) == {
        "inputs": "Once",
        "parameters": {"max_new_tokens": 5, "stop": ["x"], "do_sample": False, "return_full_text": False},
        "stream": True,
    }


def test_raw_generation_of_a_provider_is_a_completion_there() -> None:
    wire = generation("org/name:featherless-ai", max_new_tokens=5, top_k=3)
    assert wire.url == f"{ROUTER}/featherless-ai/v1/completions"
    assert body_of(wire) | {"stream": 0, "stream_options": 0} == {
        "model": "org/name",
        "prompt": "Once",
        "max_tokens": 5,
        "top_k": 3,
        "stream": 0,
        "stream_options": 0,
    }


@pytest.mark.parametrize("provider", ["featherless-ai", "together", "deepinfra", "novita"])
def test_raw_generation_goes_where_the_official_client_has_it(provider: Any) -> None:
    helper: Any = get_provider_helper(provider, task="text-generation", model="org/name")
    url = generation(f"org/name:{provider}").url
    assert url == f"{ROUTER}/{provider}{helper._prepare_route('org/name', 'hf_token')}"


def test_a_provider_that_continues_no_text_is_not_asked_for_it() -> None:
    with pytest.raises(BadModel, match="groq for text-generation"):
        generation("org/name:groq")


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"top_p": 1.0}, {}),
        ({"top_p": 1}, {}),
        ({"top_p": 0.99}, {"top_p": 0.99}),
        ({"temperature": 0}, {"do_sample": False}),
        ({"temperature": 0.0, "do_sample": True, "top_k": 5}, {"do_sample": False, "top_k": 5}),
        ({"temperature": 0.1, "do_sample": True}, {"temperature": 0.1, "do_sample": True}),
    ],
)
def test_tgi_gets_neither_top_p_1_nor_temperature_0(given: dict[str, Any], sent: dict[str, Any]) -> None:
    assert body_of(generation("org/name", **given))["parameters"] == {**sent, "return_full_text": False}


def test_raw_generation_elsewhere_is_a_completion() -> None:
    wire = generation(
        "m", base_url="http://localhost:1/v1", do_sample=False, temperature=0.7, return_full_text=True, seed=3
    )
    assert wire.url == "http://localhost:1/v1/completions"
    assert {"temperature": 0, "echo": True, "seed": 3}.items() <= body_of(wire).items()
    assert "do_sample" not in body_of(wire)


def test_the_router_needs_a_model_for_raw_generation() -> None:
    with pytest.raises(BadModel):
        generation(None)


def test_the_probe_names_a_model_that_cannot_exist() -> None:
    wire = build_probe(ROUTER)
    assert wire.url == f"{ROUTER}/v1/chat/completions"
    assert body_of(wire)["max_tokens"] == 1


def test_the_list_of_models_is_beside_the_chat() -> None:
    assert build_listing("http://localhost:1/v1").url == "http://localhost:1/v1/models"
    assert build_listing("http://localhost:1").url == "http://localhost:1/v1/models"


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b'{"object":"list","data":[{"id":"a"},{"id":"b"}]}', ["a", "b"]),
        (b'{"models":[{"name":"a"}]}', ["a"]),
        (b'[{"id":"a"},"b",3,{}]', ["a", "b"]),
        (b'{"data":[]}', []),
    ],
)
def test_models_are_read_from_every_known_list(body: bytes, names: list[str]) -> None:
    assert read_models(body) == names


@pytest.mark.parametrize("body", [b"", b"<html>", b"7", b'{"data":7}'])
def test_what_is_no_list_of_models_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(Unintelligible):
        read_models(body)
