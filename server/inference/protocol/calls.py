"""Calls as they go over the wire: which URL, which body. The token is not part of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from server.inference.events import Call, InputFile, Task

ROUTER_HOST = "router.huggingface.co"
POLICIES = frozenset({"fastest", "cheapest", "preferred"})
"""Suffixes that leave the choice of the provider to the router (documented for chat only)."""
NO_SUCH_MODEL = "ai-sdk-server/no-such-model"

_MODEL_ID = re.compile(
    r"(?P<owner>[A-Za-z0-9._-]+)/(?P<name>[A-Za-z0-9._-]+)(?::(?P<suffix>[a-z0-9-]+))?",
    re.ASCII,
)
_DOTS_ONLY = re.compile(r"\.+")
_HEADERS = {
    "Content-Type": "application/json",
    # A client that does not ask for JSON gets an HTML page with a refused token (recorded 2025-05).
    "Accept": "application/json, text/event-stream",
}
_CHAT_PARAMETERS = (
    "max_tokens",
    "temperature",
    "top_p",
    "stop",
    "seed",
    "frequency_penalty",
    "presence_penalty",
)
_COMPLETION_PARAMETERS = ("temperature", "top_p", "top_k", "repetition_penalty", "stop", "seed")
_TGI_PARAMETERS = ("max_new_tokens", *_COMPLETION_PARAMETERS, "do_sample")


class BadModel(ValueError):
    """A model id that the router could not have; the words are for the user."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """A stored file as a part of a body: as it is, or in base64 (without line breaks, as JSON wants it)."""

    file: InputFile
    is_base64: bool = False

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return 4 * -(-self.file.size // 3) if self.is_base64 else self.file.size


@dataclass(frozen=True, slots=True)
class WireRequest:
    """One HTTP request, complete but for the credentials.

    A body in parts is sent as a stream, one part after the other. `is_foreign`: upstream named this address in its
    answer, so it gets no credentials and must be a public one.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | tuple[bytes | FilePart, ...] | None = None
    is_foreign: bool = False


def is_router(base_url: str) -> bool:
    """Whether this is Hugging Face's router, which routes by the model's id; everything else is a server of its own."""
    return urlsplit(base_url).hostname == ROUTER_HOST


def build(call: Call, model: str | None, *, base_url: str) -> WireRequest:
    """The request that asks `model` (None: the only one that the server has) for a stream.

    Raises `BadModel` for a model id that the router could not have.
    """
    if call.task is Task.CHAT_COMPLETION:
        return _post(f"{_api_root(base_url)}/chat/completions", _chat_body(call, _checked(model, base_url)))
    if not is_router(base_url):
        return _post(f"{_api_root(base_url)}/completions", _completion_body(call, model))
    return _router_generation(call, model, base_url)


def build_listing(base_url: str) -> WireRequest:
    """Asks a server which models it has."""
    return WireRequest("GET", f"{_api_root(base_url)}/models", {"Accept": "application/json"})


def build_probe(base_url: str) -> WireRequest:
    """A chat with a model that cannot exist: the router looks at token and credits first, and nothing is generated."""
    body = {"model": NO_SUCH_MODEL, "messages": [{"role": "user", "content": "ping"}], "max_tokens": 1}
    return _post(f"{_api_root(base_url)}/chat/completions", body)


def _post(url: str, body: Mapping[str, Any]) -> WireRequest:
    return WireRequest("POST", url, _HEADERS, orjson.dumps(body))


def _api_root(base_url: str) -> str:
    """Where `/chat/completions` is, by the rule that both official clients use (makeUrl, _prepare_url)."""
    base_url = base_url.rstrip("/")
    if base_url.endswith("/chat/completions"):
        return base_url.removesuffix("/chat/completions")
    return base_url if base_url.endswith("/v1") else f"{base_url}/v1"


def _checked(model: str | None, base_url: str) -> str | None:
    if model is not None and is_router(base_url):
        _split_id(model)
    return model


def _split_id(model: str) -> tuple[str, str | None]:
    """`org/name` and the suffix. Its parts go into a path, where dots alone would climb out of it."""
    match = _MODEL_ID.fullmatch(model)
    if match is None or _DOTS_ONLY.fullmatch(match["owner"]) or _DOTS_ONLY.fullmatch(match["name"]):
        raise BadModel("A model is named as organisation/name or organisation/name:provider.")
    return f"{match['owner']}/{match['name']}", match["suffix"]


def _named(model: str | None) -> dict[str, Any]:
    """First in the body, as in both official clients: the router looks for it in a prefix of the body only."""
    return {} if model is None else {"model": model}


def _picked(call: Call, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: call.parameters[name] for name in names if call.parameters.get(name) is not None}


def _chat_body(call: Call, model: str | None) -> dict[str, Any]:
    messages = call.input_data.get("messages") or [{"role": "user", "content": call.input_data["prompt"]}]
    return {
        **_named(model),
        "messages": messages,
        **_picked(call, _CHAT_PARAMETERS),
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _completion_body(call: Call, model: str | None) -> dict[str, Any]:
    """The shape of OpenAI's completions, with the two sampling parameters that vLLM and featherless-ai add to it."""
    body = {**_named(model), "prompt": call.input_data["prompt"]}
    if (max_tokens := call.parameters.get("max_new_tokens")) is not None:
        body["max_tokens"] = max_tokens
    body |= _picked(call, _COMPLETION_PARAMETERS)
    if call.parameters.get("do_sample") is False:
        body["temperature"] = 0  # there is no do_sample here; this is how it is said
    if call.parameters.get("return_full_text"):
        body["echo"] = True
    return body | {"stream": True, "stream_options": {"include_usage": True}}


def _tgi_body(call: Call) -> dict[str, Any]:
    parameters = _picked(call, _TGI_PARAMETERS)
    if isinstance(parameters.get("stop"), str):
        parameters["stop"] = [parameters["stop"]]
    # Said always: on this route the default is to repeat the prompt (TGI router/src/lib.rs, compat_generate).
    parameters["return_full_text"] = bool(call.parameters.get("return_full_text"))
    return {"inputs": call.input_data["prompt"], "parameters": parameters, "stream": True}


def _router_generation(call: Call, model: str | None, base_url: str) -> WireRequest:
    """Raw generation has no automatic routing: a provider is named in the path, or it is hf-inference."""
    if model is None:
        raise BadModel("The router needs the name of a model.")
    name, suffix = _split_id(model)
    if suffix is None or suffix == "hf-inference" or suffix in POLICIES:
        return _post(f"{base_url.rstrip('/')}/hf-inference/models/{quote(name)}", _tgi_body(call))
    return _post(f"{base_url.rstrip('/')}/{quote(suffix)}/v1/completions", _completion_body(call, name))
