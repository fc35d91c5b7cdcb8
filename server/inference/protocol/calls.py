"""Calls as HTTP requests, without the token, and the readers of their answers."""

from collections.abc import Mapping
from dataclasses import replace

from server.inference.events import Call, Task
from server.inference.protocol.addresses import HF_INFERENCE, ROUTER_URL, api_root, is_router, provider_of
from server.inference.protocol.batches import ask_in_batches, is_list
from server.inference.protocol.chat import build_chat, build_generation, post_text
from server.inference.protocol.exchange import AnswerReader, FollowUp, OpenReader
from server.inference.protocol.faults import read_refusal
from server.inference.protocol.forms import KnownForms, ask_in_known_form
from server.inference.protocol.native_id_reader import open_lookup
from server.inference.protocol.native_ids import build_lookup
from server.inference.protocol.pipelines import build_own, build_pipeline
from server.inference.protocol.providers import serves
from server.inference.protocol.result_reader import Exchange, fetch_files, open_with
from server.inference.protocol.text_response_reader import Judge, TextResponseReader
from server.inference.protocol.wire import BadModel, WireRequest, unknown_way
from server.model_request import Completed

_TEXT_TASKS = frozenset({Task.CHAT_COMPLETION, Task.TEXT_GENERATION})
NO_SUCH_MODEL = "ai-sdk-server/no-such-model"


def ask(call: Call, model: str | None, *, base_url: str, known: KnownForms) -> tuple[WireRequest, OpenReader]:
    """The request for `model`, and the reader of its answer. Refused requests are repeated in another form.

    Raises `BadModel` like `build`.
    """

    def build_for(asked: Call) -> WireRequest:
        return build(asked, model, base_url=base_url)

    def read_for(asked: Call) -> OpenReader:
        return reader_for(asked, model, base_url=base_url)

    if is_list(call):
        return ask_in_batches(call, model or "", known, build=build_for, read=read_for)
    return ask_in_known_form(call, model or "", known, build=build_for, read=read_for(call))


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


def reader_for(call: Call, model: str | None, *, judge: Judge = read_refusal, base_url: str = ROUTER_URL) -> OpenReader:
    """Opens the reader of the answer to the request that `build` made for the same call."""
    exchange = Exchange(call, model, base_url, judge)
    if call.task not in _TEXT_TASKS:
        provider = _provider(model, base_url)
        return open_with(exchange) if provider == HF_INFERENCE else open_lookup(exchange, provider)

    def open_reader(status: int, headers: Mapping[str, str]) -> AnswerReader:
        is_chat = call.task is Task.CHAT_COMPLETION
        return TextResponseReader(status, headers, model=model, judge=judge, splits_thoughts=is_chat, fetch=fetch)

    def fetch(told: Completed, number: int, addresses: tuple[str, ...]) -> FollowUp:
        return fetch_files(replace(exchange, told=told), number, addresses)

    return open_reader


def _provider(model: str | None, base_url: str) -> str:
    """The provider behind the router. `build` has refused impossible ids already."""
    try:
        return provider_of(model)[1] if model is not None and is_router(base_url) else HF_INFERENCE
    except BadModel:
        return HF_INFERENCE
