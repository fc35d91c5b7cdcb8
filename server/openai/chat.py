"""Chat completions: from the body to a create, and from the final model request to the response."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from server.catalog.chat_schemas import ChatParameters
from server.errors import FieldError
from server.inference.events import Task
from server.openai.ask import Ask, create_body, read_fields, refuse_others
from server.openai.outcome import created_of, usage_of
from server.schemas import Body, invalid, parse

PASSED_ON = tuple(ChatParameters.model_fields)
"""Parameters with the same names in the catalog."""
ONLY: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "parallel_tool_calls": (True,),
    "modalities": (["text"],),
}
"""Fields that are accepted with these values only."""
NOT_SUPPORTED = (
    "audio",
    "function_call",
    "functions",
    "logit_bias",
    "moderation",
    "prediction",
    "top_logprobs",
    "verbosity",
    "web_search_options",
)
WITHOUT_EFFECT = (
    "user",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
)
_HARMLESS = frozenset((*ONLY, *NOT_SUPPORTED, *WITHOUT_EFFECT))
"""Fields that have no effect."""
_ECHOED = frozenset({"annotations", "reasoning", "reasoning_content"})
"""Fields of an answer that the model does not need when a client sends the answer back."""


class StreamOptions(Body):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatBody(Body):
    """The fields around the conversation; the catalog validates the rest."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    messages: list[Any]
    stream: bool = False
    stream_options: StreamOptions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAsk(Ask):
    wants_usage: bool
    """Whether usage follows in a chunk after the last one."""


def read_chat(data: Any) -> ChatAsk:
    """The body of `POST /v1/chat/completions`. Raises `Invalid` for unknown and unsupported fields."""
    fields = read_fields(data)
    refuse_others(fields, only=ONLY, not_supported=NOT_SUPPORTED)
    parameters = {name: fields.pop(name) for name in PASSED_ON if name in fields}
    limit_name = "max_tokens"
    if "max_completion_tokens" in fields:
        if limit_name in parameters:
            raise invalid([FieldError(limit_name, "must be left out where max_completion_tokens is given")])
        limit_name = "max_completion_tokens"
        parameters["max_tokens"] = fields.pop(limit_name)
    understood = {name: value for name, value in fields.items() if name not in _HARMLESS}
    body = parse(ChatBody, understood)
    if body.stream_options is not None and not body.stream:
        raise invalid([FieldError("stream_options", "must be left out where stream is not true")])
    messages = [_as_sent_first(message) for message in body.messages]
    return ChatAsk(
        create=create_body(Task.CHAT_COMPLETION, body.model, input_data={"messages": messages}, parameters=parameters),
        model=body.model,
        names={"input_data": "", "parameters.max_tokens": limit_name, "parameters": ""},
        is_streamed=body.stream,
        wants_usage=body.stream_options is not None and bool(body.stream_options.include_usage),
    )


def _as_sent_first(message: Any) -> Any:
    """A message without the fields that only answers have."""
    if not isinstance(message, dict) or message.get("role") != "assistant":
        return message
    return {name: value for name, value in message.items() if value is not None and name not in _ECHOED}


def completion(request_id: UUID, outcome: Mapping[str, Any]) -> dict[str, Any]:
    """The `chat.completion` of a completed request."""
    output = outcome["output_data"]
    calls = tool_calls_of(request_id, output)
    message: dict[str, Any] = {"role": "assistant", "content": output["output"] or (None if calls else "")}
    if output.get("refused"):
        message |= {"content": None, "refusal": output["output"]}
    if reasoning := output.get("reasoning"):
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason_of(output)}
    return {
        "id": completion_id(request_id),
        "object": "chat.completion",
        "created": created_of(request_id),
        "model": outcome["model"],
        "choices": [choice],
        "usage": usage_of(outcome),
    }


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
    """One of OpenAI's four reasons: its clients refuse others. Some providers send none, or `stop`, with tool calls."""
    reason = output.get("finish_reason")
    if reason in {"length", "tool_calls", "content_filter"}:
        return str(reason)
    return "tool_calls" if output.get("tool_calls") else "stop"
