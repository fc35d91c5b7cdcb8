"""The forms in which clients send messages, tools and formats, turned into the one form of the catalog. Pure.

Nothing is refused here: values without a known form stay as they are, and the catalog names what is wrong with them.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from server.catalog.chat_parts import PARTS
from server.catalog.chat_schemas import (
    CalledFunction,
    Function,
    Message,
    NamedFunction,
    NamedSchema,
    NamedTool,
    ResponseFormat,
    Tool,
    ToolCall,
)
from server.schemas import Body

_SCHEMA_NAME = "answer"
"""The name of a schema that came without one."""
_BLANK_IS_ABSENT = ("name", "tool_call_id")


def is_absent(value: Any) -> bool:
    """Null and empty lists say nothing."""
    return value is None or value == []


def known_fields(model: type[Body], given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that `model` knows. Clients send answers back with many others."""
    names = {field.alias or name for name, field in model.model_fields.items()}
    return {name: value for name, value in given.items() if name in names and not is_absent(value)}


def read_message(message: Any) -> Any:
    """A message with the fields that the catalog knows. An empty content is an empty text."""
    if not isinstance(message, dict):
        return message
    taken = known_fields(Message, message)
    is_tool = taken.get("role") == "tool"
    for name in _BLANK_IS_ABSENT:
        if taken.get(name) == "" and not (is_tool and name == "tool_call_id"):
            del taken[name]
    if isinstance(calls := taken.get("tool_calls"), list):
        taken["tool_calls"] = [_read_call(call) for call in calls]
    if isinstance(parts := taken.get("content"), list):
        taken["content"] = [_read_part(part) for part in parts]
    elif "content" in message and "tool_calls" not in taken:
        taken.setdefault("content", "")
    return taken


def _read_call(call: Any) -> Any:
    if not isinstance(call, dict):
        return call
    taken = known_fields(ToolCall, call)
    if isinstance(function := taken.get("function"), dict):
        taken["function"] = called = known_fields(CalledFunction, function)
        arguments = called.setdefault("arguments", "{}")
        if isinstance(arguments, dict):
            called["arguments"] = orjson.dumps(arguments).decode()
    return taken


def _read_part(part: Any) -> Any:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, dict) or not isinstance(kind := part.get("type"), str) or kind not in PARTS:
        return part
    model = PARTS[kind]
    taken = known_fields(model, part)
    if kind == "text" and "text" in part:
        taken.setdefault("text", "")
    inner = taken.get(kind)
    if isinstance(inner, str) and kind.endswith("_url"):
        taken[kind] = {"url": inner}
    elif isinstance(inner, dict):
        taken[kind] = known_fields(_body_of(model, kind), inner)
    return taken


def _body_of(model: type[Body], name: str) -> type[Body]:
    body = model.model_fields[name].annotation
    assert isinstance(body, type), "the content of a part is one object"  # noqa: S101 - for the type checker
    return body


def read_tool(tool: Any) -> Any:
    if not isinstance(tool, dict):
        return tool
    taken = known_fields(Tool, tool)
    if isinstance(function := taken.get("function"), dict):
        taken = {"type": "function"} | taken | {"function": known_fields(Function, function)}
    return taken


def read_tool_choice(choice: Any) -> Any:
    """The choice of one tool may come without its type, or with the name alone."""
    if not isinstance(choice, dict):
        return choice
    function = choice.get("function") or ({"name": choice["name"]} if "name" in choice else None)
    if not isinstance(function, dict):
        return choice
    return {"type": "function"} | known_fields(NamedTool, choice) | {"function": known_fields(NamedFunction, function)}


def read_response_format(given: Any) -> Any:
    """The schema may be in `json_schema`, in `schema` (llama.cpp, Together) or in `value` (huggingface_hub, TGI)."""
    if not isinstance(given, dict):
        return given
    kind = "json_object" if given.get("type") == "json" else given.get("type")
    if kind not in {"json_object", "json_schema"}:
        return known_fields(ResponseFormat, given)
    holder = next((given[name] for name in ("json_schema", "value") if isinstance(given.get(name), dict)), given)
    is_named = holder is given or not {"name", "schema"}.isdisjoint(holder)
    named = {"name": _SCHEMA_NAME} | (known_fields(NamedSchema, holder) if is_named else {"schema": holder})
    if named.get("schema"):
        return {"type": "json_schema", "json_schema": named}
    return {"type": kind} | ({} if holder is given or kind == "json_object" else {"json_schema": named})


def read_stop(given: Any) -> Any:
    """Stops of no length are absent."""
    if isinstance(given, list):
        return [text for text in given if text != ""] or None
    return None if given == "" else given
