"""The forms in which clients send tools and formats, turned into the one form of the catalog. Pure.

Nothing is refused here: values without a known form stay as they are, and the catalog names what is wrong with them.
"""

import contextlib
import re
from collections.abc import Mapping
from typing import Any

import orjson

from server.catalog.chat_schemas import Function, NamedFunction, NamedSchema, ResponseFormat, Tool
from server.openai.scalars import read_flag
from server.schemas import Body

_SCHEMA_NAME = "answer"
"""The name of a schema that came without one."""
_NOT_OF_NAMES = re.compile(r"[^A-Za-z0-9_-]+", re.ASCII)
_CHOICES = {"none": "none", "auto": "auto", "required": "required", "any": "required"}
"""Words for the choice of a tool; `any` is Mistral's and Anthropic's."""


def is_absent(value: Any) -> bool:
    """Null and empty lists say nothing."""
    return value is None or value == []


def known_fields(model: type[Body], given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that `model` knows. Clients send answers back with many others."""
    names = {field.alias or name for name, field in model.model_fields.items()}
    return {name: value for name, value in given.items() if name in names and not is_absent(value)}


def read_tools(tools: Any) -> Any:
    return [_read_tool(tool) for tool in tools if tool is not None] if isinstance(tools, list) else tools


def _read_tool(tool: Any) -> Any:
    """A function may have its fields in the tool itself (OpenAI's newer protocol), with `input_schema` (Anthropic)."""
    if not isinstance(tool, dict) or tool.get("type", "function") != "function":
        return tool
    function = tool.get("function")
    if function is None and "name" in tool:
        function = {"parameters": tool.get("input_schema")} | tool
    if not isinstance(function, dict):
        return known_fields(Tool, tool)
    taken = known_fields(Function, function)
    if "strict" in taken:
        taken["strict"] = read_flag(taken["strict"])
    if isinstance(parameters := taken.get("parameters"), str):
        with contextlib.suppress(orjson.JSONDecodeError):
            taken["parameters"] = orjson.loads(parameters)
    return {"type": "function"} | known_fields(Tool, tool) | {"function": taken}


def read_tool_choice(choice: Any) -> Any:
    """The choice may be a word in other spellings, an object around it, or the name of a tool, with or without type."""
    if isinstance(choice, dict):
        name = choice["name"] if "name" in choice else choice.get("type")
        function = choice.get("function") or ({"name": name} if "name" in choice else None)
        if isinstance(function, dict):
            return {"type": "function", "function": known_fields(NamedFunction, function)}
        return _CHOICES.get(str(name).lower(), choice) if choice else None
    if not isinstance(choice, str) or not choice:
        return choice
    return _CHOICES.get(choice.lower()) or {"type": "function", "function": {"name": choice}}


def read_response_format(given: Any) -> Any:
    """The schema may be in `json_schema`, in `schema` (llama.cpp, Together) or in `value` (huggingface_hub, TGI)."""
    if isinstance(given, str):
        given = {"type": given.lower()}
    if not isinstance(given, dict):
        return given
    implied = "json_schema" if isinstance(given.get("json_schema"), dict) else None
    kind = "json_object" if given.get("type") == "json" else given.get("type", implied)
    if kind not in {"json_object", "json_schema"}:
        return given if kind not in {"text", "regex"} else known_fields(ResponseFormat, given)
    holder = next((given[name] for name in ("json_schema", "value") if isinstance(given.get(name), dict)), given)
    is_named = holder is given or not {"name", "schema"}.isdisjoint(holder)
    named = known_fields(NamedSchema, holder) if is_named else {"schema": holder}
    if named.get("schema"):
        name = named.get("name", _SCHEMA_NAME)
        named["name"] = (_NOT_OF_NAMES.sub("_", name)[:64] or _SCHEMA_NAME) if isinstance(name, str) else name
        return {"type": "json_schema", "json_schema": named}
    return {"type": "json_object" if kind == "json_object" or holder.get("schema") == {} else kind}


def read_stop(given: Any) -> Any:
    """Stops of no length, and nulls, are absent."""
    if isinstance(given, list):
        return [text for text in given if text not in {"", None}] or None
    return None if given == "" else given
