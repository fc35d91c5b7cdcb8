"""Chat completions: from the body to a create, and from the final model request to the response."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from server.catalog.chat_schemas import ChatParameters
from server.catalog.fields import ORDERS_TO_PROXIES
from server.errors import FieldError
from server.inference.events import Task
from server.openai.ask import (
    Ask,
    StreamedBody,
    create_body,
    extra_of,
    read_fields,
    refuse_others,
    take_body,
)
from server.openai.forms import is_absent, read_response_format, read_stop, read_tool_choice, read_tools
from server.openai.messages import read_messages
from server.openai.outcome import created_of, usage_of
from server.openai.scalars import read_flag, read_word
from server.schemas import invalid

PASSED_ON = tuple(name for name in ChatParameters.model_fields if name != "extra")
"""Parameters with the same names in the catalog."""
ONLY: dict[str, tuple[Any, ...]] = {"n": (1,), "best_of": (1,), "modalities": (["text"],)}
"""Fields that are accepted with these values only."""
NOT_SUPPORTED = ("functions", "input", "prompt", *ORDERS_TO_PROXIES)
WITHOUT_EFFECT = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prediction",
    "audio",
    "function_call",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
)
"""They do not change the answer: `audio` without its modality, `function_call` without functions. Those that name the
client's users stay here."""
_FORMS: dict[str, Callable[[Any], Any]] = {
    "tools": read_tools,
    "logprobs": read_flag,
    "parallel_tool_calls": read_flag,
    "reasoning_effort": read_word,
    "tool_choice": read_tool_choice,
    "response_format": read_response_format,
    "stop": read_stop,
}


class ChatBody(StreamedBody):
    """The fields around the conversation; the catalog validates the rest."""

    messages: list[Any]


def read_chat(data: Any) -> Ask:
    """The body of `POST /v1/chat/completions`. Raises `Invalid` for unsupported fields."""
    fields = read_fields(data)
    refuse_others(fields, only=ONLY, not_supported=NOT_SUPPORTED)
    body = take_body(ChatBody, fields)
    limit_name = _unite_limits(fields)
    given = {name: _FORMS.get(name, _as_it_is)(fields.pop(name)) for name in PASSED_ON if name in fields}
    parameters = {name: value for name, value in given.items() if not is_absent(value) and value not in ("", {})}
    parameters |= extra_of(fields, without=(*ONLY, *NOT_SUPPORTED, *WITHOUT_EFFECT))
    messages = read_messages(body.messages)
    return Ask(
        create=create_body(Task.CHAT_COMPLETION, body.model, input_data={"messages": messages}, parameters=parameters),
        model=body.model,
        names={"input_data": "", "parameters.max_tokens": limit_name, "parameters": ""},
        is_streamed=body.stream,
        wants_usage=body.wants_usage,
    )


def _as_it_is(value: Any) -> Any:
    return value


def _unite_limits(fields: dict[str, Any]) -> str:
    """Move `max_completion_tokens` to `max_tokens`; the name that the client used. Raises `Invalid` for two limits."""
    if "max_completion_tokens" not in fields:
        return "max_tokens"
    limit = fields.pop("max_completion_tokens")
    if fields.setdefault("max_tokens", limit) != limit:
        raise invalid([FieldError("max_tokens", "must be left out where max_completion_tokens is given")])
    return "max_completion_tokens"


def completion(request_id: UUID, outcome: Mapping[str, Any]) -> dict[str, Any]:
    """The `chat.completion` of a completed request; `images` of the outcome are URLs."""
    output = outcome["output_data"]
    calls = tool_calls_of(request_id, output)
    message: dict[str, Any] = {"role": "assistant", "content": output["output"] or (None if calls else "")}
    if output.get("refused"):
        message |= {"content": None, "refusal": output["output"]}
    if reasoning := output.get("reasoning"):
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    if images := outcome.get("images"):
        message["images"] = image_parts(images)
    choice = {
        "index": 0,
        "message": message,
        "logprobs": output.get("logprobs"),
        "finish_reason": finish_reason_of(output),
    }
    return {
        "id": completion_id(request_id),
        "object": "chat.completion",
        "created": created_of(request_id),
        "model": outcome["model"],
        "choices": [choice],
        "usage": usage_of(outcome),
    }


def image_parts(urls: Sequence[str]) -> list[dict[str, Any]]:
    """Images in an answer as OpenRouter and LiteLLM have them: OpenAI's own protocol has none."""
    return [{"type": "image_url", "index": index, "image_url": {"url": url}} for index, url in enumerate(urls)]


def completion_id(request_id: UUID) -> str:
    return f"chatcmpl-{request_id}"


def tool_call_id(request_id: UUID, number: int) -> str:
    """The id of a call that upstream gave none: the same in every response for the request."""
    return f"call_{request_id.hex}{number}"


def tool_calls_of(request_id: UUID, output: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "id": call.get("id") or tool_call_id(request_id, number),
            "type": "function",
            "function": call["function"],
            **({"extra_content": call["extra_content"]} if call.get("extra_content") else {}),
        }
        for number, call in enumerate(output.get("tool_calls") or ())
    ]


def finish_reason_of(output: Mapping[str, Any]) -> str:
    """One of OpenAI's four reasons: its clients refuse others.

    Some providers send none, or `stop`, with tool calls, and some `tool_calls` without any.
    """
    reason = output.get("finish_reason")
    if reason in {"length", "content_filter"}:
        return str(reason)
    return "tool_calls" if output.get("tool_calls") else "stop"
