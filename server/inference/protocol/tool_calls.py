"""Tool calls, assembled from pieces and passed on as deltas."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from server.inference.events import Delta, Segment
from server.inference.protocol.texts import Cleaner, Unintelligible
from server.inference.protocol.usage import MAX_COUNT

MAX_TOOL_CALLS = 128
MAX_NAME = 200
"""Characters of a name, which every delta repeats. Offered functions have names of 64 at most."""


@dataclass(slots=True)
class _ToolCall:
    """`name` and `arguments` are clean. `early` holds arguments that arrive before the name."""

    number: int
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    early: list[str] = field(default_factory=list)
    is_told: bool = False


class ToolCalls:
    """Together numbers all calls of an answer -1, so a new id begins a new call as well."""

    def __init__(self) -> None:
        self._calls: list[_ToolCall] = []
        self._by_index: dict[Any, _ToolCall] = {}
        self._cleaners: list[Cleaner] = []
        self._cleaner = Cleaner()

    def __bool__(self) -> bool:
        return bool(self._calls)

    @property
    def did_replace(self) -> bool:
        """Whether any text had to be cleaned."""
        return any(cleaner.did_replace for cleaner in (self._cleaner, *self._cleaners))

    def add(self, pieces: Any) -> Iterator[Delta]:
        """Add the `tool_calls` of a message or of a delta. Raises `Unintelligible` for too many."""
        for position, piece in enumerate(_listed(pieces)):
            if not isinstance(piece, dict):
                continue
            function = piece.get("function")
            arguments = _arguments(function.get("arguments")) if isinstance(function, dict) else ""
            index = piece.get("index")
            call = self._find(index if isinstance(index, int) else position, _id(piece.get("id")))
            if isinstance(function, dict):
                call.name = call.name or self._cleaner.whole(_text(function.get("name"))[:MAX_NAME])
                yield from self._tell(call, self._cleaners[call.number].feed(arguments))

    def flush(self) -> Iterator[Delta]:
        """The text that was held back; nothing is added afterwards."""
        for call, cleaner in zip(self._calls, self._cleaners, strict=True):
            yield from self._tell(call, cleaner.flush(), is_last=True)

    def as_data(self) -> list[dict[str, Any]]:
        return [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": "".join(call.arguments)},
            }
            for call in self._calls
        ]

    def _find(self, index: int, call_id: str) -> _ToolCall:
        call_id = self._cleaner.whole(call_id)
        call = self._by_index.get(index)
        if call is None or (call_id and call.id and call_id != call.id):
            if len(self._calls) >= MAX_TOOL_CALLS:
                raise Unintelligible
            call = self._by_index[index] = _ToolCall(len(self._calls))
            self._calls.append(call)
            self._cleaners.append(Cleaner())
        call.id = call.id or call_id
        return call

    def _tell(self, call: _ToolCall, text: str, *, is_last: bool = False) -> Iterator[Delta]:
        """The delta for `text`, once the name is known."""
        if not call.is_told and not call.name and not is_last:
            call.early.append(text)
            return
        text = "".join((*call.early, text))
        call.early.clear()
        if text or not call.is_told:
            name = "" if call.is_told else call.name
            call.is_told = True
            call.arguments.append(text)
            yield Delta(text, Segment.TOOL_CALL, call.number, name)


def _listed(pieces: Any) -> list[Any]:
    """TGI's deltas have their one call without a list around it."""
    if isinstance(pieces, dict):
        return [pieces]
    return pieces if isinstance(pieces, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _id(value: Any) -> str:
    """A string; TGI numbers the calls of a whole message."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if is_number and abs(value) <= MAX_COUNT else _text(value)


def _arguments(value: Any) -> str:
    """Arguments are a JSON string; TGI sends the object itself when it does not stream."""
    if value is None or isinstance(value, str):
        return value or ""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        raise Unintelligible from None
