"""The answer as it grows: text, reasoning, tool calls and usage of the first choice."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from server.inference.events import Delta, Segment
from server.inference.protocol.texts import Cleaner, Unintelligible, clean
from server.model_request import Usage

MAX_TOOL_CALLS = 128
MAX_COUNT = 2**31 - 1
"""Token counts are kept in an `integer` column."""

_FINISH = {"eos_token": "stop", "stop_sequence": "stop"}
"""TGI's own names, in those of OpenAI."""


@dataclass(slots=True)
class _ToolCall:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class ToolCalls:
    """Calls put together from pieces. Together numbers all of them -1, so a new id begins a new call as well."""

    def __init__(self) -> None:
        self._calls: list[_ToolCall] = []
        self._by_index: dict[Any, _ToolCall] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, pieces: Any) -> None:
        """Take the `tool_calls` of a message or of a delta. Raises `Unintelligible` for more than anyone makes."""
        for position, piece in enumerate(pieces if isinstance(pieces, list) else []):
            if not isinstance(piece, dict):
                continue
            index = piece.get("index")
            call = self._find(index if isinstance(index, int) else position, _text(piece.get("id")))
            function = piece.get("function")
            if isinstance(function, dict):
                call.name = call.name or _text(function.get("name"))
                call.arguments.append(_arguments(function.get("arguments")))

    def _find(self, index: int, call_id: str) -> _ToolCall:
        call = self._by_index.get(index)
        if call is None or (call_id and call.id and call_id != call.id):
            if len(self._calls) >= MAX_TOOL_CALLS:
                raise Unintelligible
            call = self._by_index[index] = _ToolCall()
            self._calls.append(call)
        call.id = call.id or call_id
        return call

    def as_data(self, clean: Callable[[str], str]) -> list[dict[str, Any]]:
        return [
            {
                "id": clean(call.id),
                "type": "function",
                "function": {"name": clean(call.name), "arguments": clean("".join(call.arguments))},
            }
            for call in self._calls
        ]


class Answer:
    """Collects what the pieces of one answer say, and hands new text out as deltas."""

    def __init__(self) -> None:
        self.usage = Usage()
        self.finish_reason: str | None = None
        self.tool_calls = ToolCalls()
        self.has_text = False
        self._texts: dict[Segment, list[str]] = {segment: [] for segment in Segment}
        self._cleaners = {segment: Cleaner() for segment in Segment}

    @property
    def is_empty(self) -> bool:
        return not self.has_text and not self.tool_calls

    def add(self, text: str, segment: Segment = Segment.OUTPUT) -> list[Delta]:
        return self._emit(self._cleaners[segment].feed(text), segment) if text else []

    def flush(self) -> list[Delta]:
        """What the cleaners held back; nothing is added afterwards."""
        return [delta for segment in Segment for delta in self._emit(self._cleaners[segment].flush(), segment)]

    def finish(self, reason: Any) -> None:
        """Note why generation ended, where `reason` says so."""
        if isinstance(reason, str) and reason:
            self.finish_reason = clean(_FINISH.get(reason, reason))[:64]

    def count(self, usage: Any) -> None:
        """Take the newest usage of OpenAI's shape: some providers repeat it with every chunk, grown."""
        if not isinstance(usage, dict):
            return
        generated = _count(usage.get("completion_tokens"))
        used = _count(usage.get("total_tokens"))
        if usage.get("total_tokens") is None:
            used = _sum(usage.get("prompt_tokens"), generated)
        self.usage = Usage(used, generated)

    def count_details(self, details: Mapping[str, Any]) -> None:
        """Take TGI's counts; the prompt's is not always among them."""
        generated = _count(details.get("generated_tokens"))
        self.usage = Usage(_sum(details.get("input_length"), generated), generated)

    def as_data(self, *, provider: str | None, is_partial: bool) -> dict[str, Any]:
        """`output_data` of the HTTP contract."""
        data: dict[str, Any] = {"output": "".join(self._texts[Segment.OUTPUT])}
        if not is_partial or self.finish_reason is not None:
            data["finish_reason"] = self.finish_reason
        if reasoning := "".join(self._texts[Segment.REASONING]):
            data["reasoning"] = reasoning
        if self.tool_calls:
            data["tool_calls"] = self.tool_calls.as_data(self._cleaners[Segment.OUTPUT].whole)
        if provider is not None:
            data["provider"] = provider
        if any(cleaner.did_replace for cleaner in self._cleaners.values()):
            data["cleaned"] = True
        if is_partial:
            data["partial"] = True
        return data

    def _emit(self, text: str, segment: Segment) -> list[Delta]:
        if not text:
            return []
        self.has_text = True
        self._texts[segment].append(text)
        return [Delta(text, segment)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _arguments(value: Any) -> str:
    """Arguments are a JSON string; TGI sends the object itself when it does not stream."""
    if value is None or isinstance(value, str):
        return value or ""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        raise Unintelligible from None


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT
    return value if is_count else None


def _sum(prompt: Any, generated: int | None) -> int | None:
    prompt = _count(prompt)
    return None if prompt is None or generated is None else _count(prompt + generated)
