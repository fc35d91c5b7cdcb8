"""Tool calls, assembled from pieces and passed on as deltas."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from server.inference.events import CallHead, Delta, Segment
from server.inference.protocol.texts import Cleaner, Unintelligible, clean_all
from server.inference.protocol.usage import MAX_COUNT, read_spelled_count

MAX_TOOL_CALLS = 128
MAX_NAME = 200
"""Characters of a name, which every delta repeats."""

_CONTROL_TOKEN = re.compile(r"<[|\uff5c].*?(?:[|\uff5c]>|$)", re.DOTALL)
"""A token of a chat template, whole or cut off, as in `manage_cart<|channel|>commentary`."""
_UNDECIDED = re.compile(r"\s*(?:\{\s*(?:\}\s*)?|n(?:u(?:ll?)?)?\s*)?")
"""Arguments that may still be none (`null`), or an empty object in front of the arguments themselves."""
_PLACEHOLDER = re.compile(r"\s*\{\s*\}\s*(?=\{)")
"""An empty object in front of the arguments (Bedrock, Anthropic's gateways)."""


@dataclass(slots=True)
class _ToolCall:
    """`name` is as upstream sent it, in one piece or several. The call is announced with its first arguments.

    From then on its head and its name stay. `early` holds arguments that arrive before the name, or that are not yet
    known to be an object. `is_encoded_twice`: they seem to be an object as JSON text; only their end shows it.
    """

    number: int
    id: str = ""
    extra_content: dict[str, Any] | None = None
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    early: list[str] = field(default_factory=list)
    is_announced: bool = False
    is_encoded_twice: bool = False
    cleaner: Cleaner = field(default_factory=Cleaner)

    @property
    def has_arguments(self) -> bool:
        return any(piece and not piece.isspace() for piece in (*self.arguments, *self.early))

    @property
    def is_whole(self) -> bool:
        """Whether the arguments are a complete JSON object, so that nothing can follow."""
        pieces = self.arguments or self.early
        return bool(pieces) and pieces[-1].rstrip().endswith("}") and _is_object("".join(pieces))

    def repeats(self, arguments: str) -> bool:
        """Whether `arguments` are all of this call's arguments again, as some providers send them at the end."""
        return self.is_whole and arguments.strip() == "".join(self.arguments).strip()


class ToolCalls:
    """Providers number calls in different ways: each from 0, all 0 or -1, each piece with a new number, or not at all.

    Some send a new id with each piece. So a piece begins a call only with a name, or with a new number and a new id.
    """

    def __init__(self) -> None:
        self._calls: list[_ToolCall] = []
        self._by_index: dict[int, _ToolCall] = {}
        self._by_id: dict[str, _ToolCall] = {}
        self._cleaner = Cleaner()
        self._did_replace = False

    def __bool__(self) -> bool:
        return bool(self._calls)

    @property
    def did_replace(self) -> bool:
        """Whether any text had to be cleaned."""
        return self._did_replace or self._cleaner.did_replace or any(call.cleaner.did_replace for call in self._calls)

    def add(self, pieces: Any) -> Iterator[Delta]:
        """Add the `tool_calls` of a message or of a delta. Raises `Unintelligible` for too many."""
        for position, piece in enumerate(_listed(pieces)):
            if not isinstance(piece, dict):
                continue
            function = piece.get("function")
            if not isinstance(function, dict):
                function = piece  # some have name and arguments next to the id
            name, arguments = _text(function.get("name")), _arguments(function.get("arguments"))
            index, call_id = read_spelled_count(piece.get("index")), self._cleaner.whole(_id(piece.get("id")))
            call = self._find(position if index is None else index, call_id, name, arguments)
            if not call.is_announced:
                call.id = call.id or call_id
                call.extra_content = call.extra_content or self._clean_extra(piece.get("extra_content"))
                call.name = _join_names(call.name, name)[:MAX_NAME]
            elif name and call_id == call.id and call.repeats(arguments):
                continue
            yield from self._pass_on(call, call.cleaner.feed(arguments))

    def flush(self, *, is_complete: bool) -> Iterator[Delta]:
        """The text that was held back; nothing is added afterwards.

        A call without arguments has the arguments `{}`, unless the answer is not complete.
        """
        for call in self._calls:
            text = call.cleaner.flush()
            if call.is_announced:
                yield from self._pass_on(call, text)
                continue
            text = "".join((*call.early, text))
            yield self._announce(call, _as_object(text) if is_complete else text)

    def as_data(self) -> list[dict[str, Any]]:
        return [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": "".join(call.arguments)},
                **({"extra_content": call.extra_content} if call.extra_content else {}),
            }
            for call in self._calls
        ]

    def _clean_extra(self, value: Any) -> dict[str, Any] | None:
        """`value` if it is an object that can be stored."""
        if not isinstance(value, dict):
            return None
        try:
            cleaned, did_replace = clean_all(orjson.loads(orjson.dumps(value)))
        except orjson.JSONEncodeError:
            return None
        self._did_replace |= did_replace
        return cleaned if isinstance(cleaned, dict) else None

    def _find(self, index: int, call_id: str, name: str, arguments: str) -> _ToolCall:
        """The call that a piece belongs to, which is new if the piece begins one."""
        call = self._by_index.get(index)
        if call is None:
            same = self._by_id.get(call_id)
            if same is not None and (not name or (name == same.name and not same.is_whole)):
                return same
            return self._calls[-1] if self._calls and not call_id and not name else self._begin(index, call_id)
        if call_id and call.id and call_id != call.id:
            if not name:
                return self._by_id.get(call_id, call)
            return call if name == call.name and not call.is_whole else self._begin(index, call_id)
        return self._begin(index, call_id) if name and _begins_another(call, name, arguments) else call

    def _begin(self, index: int, call_id: str) -> _ToolCall:
        if len(self._calls) >= MAX_TOOL_CALLS:
            raise Unintelligible
        call = self._by_index[index] = _ToolCall(len(self._calls))
        self._calls.append(call)
        if call_id:
            self._by_id[call_id] = call
        return call

    def _pass_on(self, call: _ToolCall, text: str) -> Iterator[Delta]:
        """The delta for `text`. The first one waits for the whole name: it is known when the arguments begin."""
        if call.is_announced:
            if text:
                call.arguments.append(text)
                yield Delta(text, Segment.TOOL_CALL, call.number)
            return
        call.early.append(text)
        if not call.name or call.is_encoded_twice:
            return
        text = "".join(call.early)
        call.is_encoded_twice = text.lstrip().startswith('"')
        if call.is_encoded_twice or _UNDECIDED.fullmatch(text):
            call.early = [text]
        else:
            yield self._announce(call, _PLACEHOLDER.sub("", text, count=1))

    def _announce(self, call: _ToolCall, text: str) -> Delta:
        """The first delta of a call, with its head and its name."""
        call.early.clear()
        call.is_announced = True
        call.name = self._cleaner.whole(_without_tokens(call.name))
        call.arguments.append(text)
        head = CallHead(call.id, call.extra_content) if call.id or call.extra_content else None
        return Delta(text, Segment.TOOL_CALL, call.number, call.name, head)


def _begins_another(call: _ToolCall, name: str, arguments: str) -> bool:
    """Whether a piece with a name, and with no other id, begins a call after `call`."""
    if not call.name or not call.has_arguments:
        return False  # the name, or more of it
    if name != call.name and _without_tokens(name) != call.name:
        return True
    return bool(arguments.strip()) and call.is_whole and not call.repeats(arguments)


def _join_names(begun: str, piece: str) -> str:
    """A name in pieces; some providers repeat it, or what came of it so far."""
    return piece if piece.startswith(begun) else begun if begun.startswith(piece) else begun + piece


def _without_tokens(name: str) -> str:
    """The part of `name` outside of control tokens."""
    if "<" not in name:
        return name.strip()
    return next((part.strip() for part in _CONTROL_TOKEN.split(name) if part.strip()), "")


def _is_object(text: str) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False


def _as_object(text: str) -> str:
    """Arguments that were held back until their end: `{}` for none, and the object that was encoded twice."""
    if text.strip() in {"", "null"}:
        return "{}"
    if text.lstrip().startswith('"'):
        with contextlib.suppress(orjson.JSONDecodeError):
            inner = orjson.loads(text)
            return inner if _is_object(inner) else text
    return text


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
