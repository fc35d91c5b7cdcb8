"""The forms in which clients send messages and their parts, turned into the one form of the catalog. Pure.

Nothing is refused here: values without a known form stay as they are, and the catalog names what is wrong with them.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

import orjson

from server.catalog.chat_parts import PARTS
from server.catalog.chat_schemas import CalledFunction, Message, ToolCall
from server.file_reference import SCHEME
from server.openai.forms import known_fields
from server.openai.scalars import read_number, read_word
from server.schemas import Body

_TEXTS = ("input_text", "output_text")
"""The text parts of OpenAI's newer protocol."""


def read_messages(messages: list[Any]) -> list[Any]:
    """The messages, with the ids that results of tools lack: those of the calls before them, in their order."""
    taken = [_read_message(message, number) for number, message in enumerate(messages)]
    waiting: list[Any] = []
    for message in taken:
        if not isinstance(message, dict):
            continue
        if isinstance(calls := message.get("tool_calls"), list):
            waiting = [call for call in calls if isinstance(call, dict) and "id" in call]
        elif message.get("role") == "tool" and (call := _answered(message, waiting)) is not None:
            waiting.remove(call)
            message["tool_call_id"] = call["id"]
    return taken


def _answered(result: Mapping[str, Any], waiting: list[Any]) -> Any:
    """The call that a result belongs to: by id, or else by name, or else the first."""
    if "tool_call_id" in result:
        return next((call for call in waiting if call["id"] == result["tool_call_id"]), None)
    named = (call for call in waiting if (call.get("function") or {}).get("name") == result.get("name"))
    return next(named, waiting[0] if waiting else None)


def _read_message(message: Any, number: int) -> Any:
    """A message with the fields that the catalog knows. An empty content is an empty text."""
    if not isinstance(message, dict):
        return message
    taken = _with_its_ids(known_fields(Message, message))
    called = message.get("function_call")
    if isinstance(called, dict) and "tool_calls" not in taken:
        taken["tool_calls"] = [{"id": f"call_{number}", "type": "function", "function": called}]
    if isinstance(calls := taken.get("tool_calls"), list):
        taken["tool_calls"] = [_read_call(call) for call in calls]
    if "content" in taken:
        taken["content"] = _read_content(taken["content"], is_result=taken.get("role") == "tool")
    elif "content" in message and "tool_calls" not in taken:
        taken["content"] = ""
    return taken


def _with_its_ids(taken: dict[str, Any]) -> dict[str, Any]:
    """The message with role, name and id as the catalog has them. OpenAI's role `function` is older than tool calls."""
    if taken.get("role") == "function":
        taken["role"] = "tool"
    is_result = taken.get("role") == "tool"
    if taken.get("name") == "":
        del taken["name"]
    if "tool_call_id" in taken:
        call_id = taken.pop("tool_call_id")
        taken |= {"tool_call_id": _as_text(call_id)} if is_result else {}
    return taken


def _read_content(content: Any, *, is_result: bool) -> Any:
    """A text, or parts. An object is the one part, or the result of a tool."""
    if isinstance(content, dict):
        content = orjson.dumps(content).decode() if is_result and "type" not in content else [content]
    return [_read_part(part) for part in content if part is not None] if isinstance(content, list) else content


def _as_text(value: Any) -> Any:
    return str(value) if type(value) is int else value


def _read_call(call: Any) -> Any:
    if not isinstance(call, dict):
        return call
    taken = known_fields(ToolCall, call)
    taken |= {name: read(taken[name]) for name, read in (("id", _as_text), ("index", read_number)) if name in taken}
    if isinstance(function := taken.get("function"), dict):
        taken["function"] = called = known_fields(CalledFunction, function)
        called["arguments"] = _read_arguments(called.get("arguments", "{}"))
    return taken


def _read_arguments(arguments: Any) -> Any:
    """Arguments as JSON text; some clients send the object itself, and some encode the text once more."""
    if not isinstance(arguments, str):
        return orjson.dumps(arguments).decode()
    if arguments.startswith('"'):
        with contextlib.suppress(orjson.JSONDecodeError):
            inner = orjson.loads(arguments)
            return inner if inner.startswith("{") else arguments
    return arguments


def _read_part(part: Any) -> Any:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, dict):
        return part
    part = _in_form_of_chat(part)
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in PARTS:
        return part
    model = PARTS[kind]
    taken = known_fields(model, part)
    if kind == "text" and "text" in part:
        taken.setdefault("text", "")
    inner = taken.get(kind)
    if isinstance(inner, str) and kind.endswith("_url"):
        taken[kind] = {"url": inner}
    elif isinstance(inner, dict):
        taken[kind] = inner = known_fields(_body_of(model, kind), inner)
        if "detail" in inner and (detail := read_word(inner.pop("detail"))) is not None:
            inner["detail"] = detail
    return taken


def _in_form_of_chat(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """A part of OpenAI's newer protocol, of Anthropic's, or without a type."""
    match part:
        case {"type": kind} if kind in _TEXTS:
            return {**part, "type": "text"}
        case {"type": "input_image", "image_url": str(url)}:
            return {"type": "image_url", "image_url": {"url": url, "detail": part.get("detail")}}
        case {"type": "input_file"}:
            return {"type": "file", "file": part}
        case {"type": "image", "source": {"url": str(url)}}:
            return {"type": "image_url", "image_url": {"url": url}}
        case {"type": "image", "source": {"data": str(data), "media_type": str(media)}}:
            url = data if data.startswith(SCHEME) else f"data:{media};base64,{data}"
            return {"type": "image_url", "image_url": {"url": url}}
    kind = next((name for name in PARTS if name in part), None)
    return part if "type" in part or kind is None else {**part, "type": kind}


def _body_of(model: type[Body], name: str) -> type[Body]:
    body = model.model_fields[name].annotation
    assert isinstance(body, type), "the content of a part is one object"  # noqa: S101 - for the type checker
    return body
