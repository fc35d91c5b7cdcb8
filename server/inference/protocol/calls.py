"""Calls as HTTP requests, without the token."""

from server.inference.events import Call, Task
from server.inference.protocol.addresses import HF_INFERENCE, api_root, is_router, provider_of
from server.inference.protocol.chat import build_chat, build_generation, post_text
from server.inference.protocol.native_ids import build_lookup
from server.inference.protocol.pipelines import build_own, build_pipeline
from server.inference.protocol.providers import serves
from server.inference.protocol.wire import BadModel, FilePart, WireRequest, unknown_way

__all__ = ["BadModel", "FilePart", "WireRequest", "build", "build_listing", "build_probe", "is_router"]

NO_SUCH_MODEL = "ai-sdk-server/no-such-model"


def build(call: Call, model: str | None, *, base_url: str) -> WireRequest:
    """The request for `model` (None: the only one of the server). Text is requested as a stream.

    Raises `BadModel` for an impossible model id, and for a task that no provider serves.
    """
    match call.task:
        case Task.CHAT_COMPLETION:
            return build_chat(call, model, base_url)
        case Task.TEXT_GENERATION:
            return build_generation(call, model, base_url)
    if not is_router(base_url):
        return build_own(call, model, base_url)
    if model is None:
        raise BadModel("The router needs the name of a model.")
    name, provider = provider_of(model)
    if provider == HF_INFERENCE:
        return build_pipeline(call, model, base_url)
    if not serves(provider, call.task):
        raise unknown_way(provider, call.task)
    return build_lookup(name)


def build_listing(base_url: str) -> WireRequest:
    """The request for a server's list of models."""
    return WireRequest("GET", f"{api_root(base_url)}/models", {"Accept": "application/json"})


def build_probe(base_url: str) -> WireRequest:
    """A chat with an impossible model: the router checks token and credits first, and nothing is generated."""
    body = {"model": NO_SUCH_MODEL, "messages": [{"role": "user", "content": "ping"}], "max_tokens": 1}
    return post_text(f"{api_root(base_url)}/chat/completions", body)
