"""Calls for text: chat, completions, and the raw generation of TGI."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import orjson

from server.file_reference import SCHEME
from server.inference.events import Call
from server.inference.protocol.addresses import HF_INFERENCE, api_root, is_router, provider_of, split_id
from server.inference.protocol.providers import PROVIDERS
from server.inference.protocol.wire import (
    BadModel,
    Base64,
    WireRequest,
    as_data_url,
    attachment_of,
    encode,
    named,
    unknown_way,
    with_extra,
)

_HEADERS = {
    "Content-Type": "application/json",
    # A client that does not ask for JSON gets an HTML page with a refused token (recorded 2025-05).
    "Accept": "application/json, text/event-stream",
}
_COMPLETION_PARAMETERS = ("temperature", "top_p", "top_k", "repetition_penalty", "stop", "seed")
_TGI_PARAMETERS = ("max_new_tokens", *_COMPLETION_PARAMETERS, "do_sample")


def build_chat(call: Call, model: str | None, base_url: str) -> WireRequest:
    if model is not None and is_router(base_url):
        split_id(model)
    return post_text(f"{api_root(base_url)}/chat/completions", _chat_body(call, model))


def build_generation(call: Call, model: str | None, base_url: str) -> WireRequest:
    """Raw generation has no automatic routing: the path names the provider, or else it is hf-inference."""
    if not is_router(base_url):
        return post_text(f"{api_root(base_url)}/completions", _completion_body(call, model))
    if model is None:
        raise BadModel("The router needs the name of a model.")
    name, provider = provider_of(model)
    if provider == HF_INFERENCE:
        return post_text(f"{base_url.rstrip('/')}/hf-inference/models/{quote(name)}", _tgi_body(call))
    path = PROVIDERS[provider].completions if provider in PROVIDERS else None
    if path is None:
        raise unknown_way(provider, call.task)
    return post_text(f"{base_url.rstrip('/')}/{provider}{path}", _completion_body(call, name))


def post_text(url: str, body: Mapping[str, Any]) -> WireRequest:
    return WireRequest("POST", url, _HEADERS, encode(body))


def _picked(call: Call, names: tuple[str, ...]) -> dict[str, Any]:
    """The parameters of these names, and those of `extra`."""
    given = {name: call.parameters.get(name) for name in (*names, "extra")}
    return with_extra({name: value for name, value in given.items() if value is not None})


def _chat_body(call: Call, model: str | None) -> dict[str, Any]:
    messages = call.input_data.get("messages") or [{"role": "user", "content": call.input_data["prompt"]}]
    return {
        **named(model),
        **_with_schemas(call.parameters),
        **named(model),  # again, since it has precedence over `extra`
        "messages": [with_files(call, message) for message in messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def with_files(call: Call, message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message with its stored files as `data:` URLs and base64; an address stays as it is."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": [_with_file(call, part) for part in content]}


def _with_file(call: Call, part: Mapping[str, Any]) -> Mapping[str, Any]:
    match part:
        case {"type": "image_url" | "audio_url" | "video_url" as kind}:
            media = part[kind]
            is_web = media["url"].lower().startswith("http")
            return part if is_web else {**part, kind: {**media, "url": as_data_url(attachment_of(call, media["url"]))}}
        case {"input_audio": {"data": str(data)} as audio} if data.startswith(SCHEME):
            return {**part, "input_audio": {**audio, "data": Base64(attachment_of(call, data))}}
        case {"file": {"file_data": str(data)} as file} if data.startswith((SCHEME, "data:")):
            return {**part, "file": {**file, "file_data": as_data_url(attachment_of(call, data))}}
    return part


def _with_schemas(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with their JSON schemas as objects: they are stored as text, which keeps the order of keys."""
    parameters = with_extra(given)
    if tools := parameters.get("tools"):
        parameters["tools"] = [
            {**tool, "function": _with_object(tool["function"], "parameters")} if tool["type"] == "function" else tool
            for tool in tools
        ]
    response_format = parameters.get("response_format")
    if response_format and "json_schema" in response_format:
        parameters["response_format"] = {
            **response_format,
            "json_schema": _with_object(response_format["json_schema"], "schema"),
        }
    return parameters


def _with_object(holder: Mapping[str, Any], name: str) -> dict[str, Any]:
    text = holder.get(name)
    return {**holder, name: orjson.loads(text)} if isinstance(text, str) else dict(holder)


def _completion_body(call: Call, model: str | None) -> dict[str, Any]:
    """The shape of OpenAI's completions, with two sampling parameters of vLLM and featherless-ai."""
    body = {**named(model), **_picked(call, _COMPLETION_PARAMETERS), **named(model)}
    body["prompt"] = call.input_data["prompt"]
    if (max_tokens := call.parameters.get("max_new_tokens")) is not None:
        body["max_tokens"] = max_tokens
    if call.parameters.get("do_sample") is False:
        body["temperature"] = 0  # the equivalent of do_sample
    if call.parameters.get("return_full_text"):
        body["echo"] = True
    return body | {"stream": True, "stream_options": {"include_usage": True}}


def _tgi_body(call: Call) -> dict[str, Any]:
    parameters = _picked(call, _TGI_PARAMETERS)
    if isinstance(parameters.get("stop"), str):
        parameters["stop"] = [parameters["stop"]]
    # TGI refuses both (router/src/validation.rs): a top_p of 1 has no effect, a temperature of 0 is greedy decoding.
    if parameters.get("top_p", 0) >= 1:
        del parameters["top_p"]
    if parameters.get("temperature") == 0:
        del parameters["temperature"]
        parameters["do_sample"] = False
    # Always sent: this route repeats the prompt by default (TGI router/src/lib.rs, compat_generate).
    parameters["return_full_text"] = bool(call.parameters.get("return_full_text"))
    return {"inputs": call.input_data["prompt"], "parameters": parameters, "stream": True}
