"""Chooses the reader of an answer, by task and provider."""

from collections.abc import Mapping

from server.inference.events import Call, Task
from server.inference.protocol.addresses import HF_INFERENCE, ROUTER_URL, is_router, provider_of
from server.inference.protocol.exchange import AnswerReader, OpenReader
from server.inference.protocol.faults import read_refusal
from server.inference.protocol.native_id_reader import open_lookup
from server.inference.protocol.result_reader import Exchange, open_with
from server.inference.protocol.text_response_reader import Judge, TextResponseReader
from server.inference.protocol.wire import BadModel

_TEXT_TASKS = frozenset({Task.CHAT_COMPLETION, Task.TEXT_GENERATION})


def reader_for(call: Call, model: str | None, *, judge: Judge = read_refusal, base_url: str = ROUTER_URL) -> OpenReader:
    """Opens the reader of the answer to the request that `build` made for the same call."""
    if call.task not in _TEXT_TASKS:
        exchange = Exchange(call, model, base_url, judge)
        provider = _provider(model, base_url)
        return open_with(exchange) if provider == HF_INFERENCE else open_lookup(exchange, provider)

    def open_reader(status: int, headers: Mapping[str, str]) -> AnswerReader:
        is_chat = call.task is Task.CHAT_COMPLETION
        return TextResponseReader(status, headers, model=model, judge=judge, splits_thoughts=is_chat)

    return open_reader


def _provider(model: str | None, base_url: str) -> str:
    """The provider behind the router. `build` has refused impossible ids already."""
    try:
        return provider_of(model)[1] if model is not None and is_router(base_url) else HF_INFERENCE
    except BadModel:
        return HF_INFERENCE
