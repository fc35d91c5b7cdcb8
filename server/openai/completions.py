"""Text completions, OpenAI's protocol before chat: the continuation of one prompt."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from server.catalog.fields import ORDERS_TO_PROXIES
from server.inference.events import Segment, Task
from server.openai.ask import (
    Ask,
    StreamedBody,
    create_body,
    extra_of,
    read_fields,
    refuse_others,
    take_body,
)
from server.openai.chat import finish_reason_of
from server.openai.chunks import Chunks
from server.openai.forms import read_stop
from server.openai.outcome import created_of, usage_of
from server.openai.scalars import read_flag
from server.transcript import Part

PARAMETERS = {
    "max_tokens": "max_new_tokens",
    "echo": "return_full_text",
    **{name: name for name in ("temperature", "top_p", "top_k", "repetition_penalty", "stop", "seed")},
}
"""Parameters by their names in the catalog."""
ONLY: dict[str, tuple[Any, ...]] = {"n": (1,), "best_of": (1,)}
NOT_SUPPORTED = ("input", "messages", *ORDERS_TO_PROXIES)
WITHOUT_EFFECT = ("user", "metadata", "store", "service_tier")
_OBJECT = "text_completion"


class CompletionBody(StreamedBody):
    """The fields around the parameters."""

    prompt: Any


def read_completion(data: Any) -> Ask:
    """The body of `POST /v1/completions`. Raises `Invalid` for unsupported fields."""
    fields = read_fields(data)
    refuse_others(fields, only=ONLY, not_supported=NOT_SUPPORTED)
    body = take_body(CompletionBody, fields)
    if "stop" in fields and (stop := read_stop(fields.pop("stop"))) is not None:
        fields["stop"] = stop
    if "echo" in fields:
        fields["echo"] = read_flag(fields["echo"])
    parameters = {ours: fields.pop(theirs) for theirs, ours in PARAMETERS.items() if theirs in fields}
    parameters |= extra_of(fields, without=(*ONLY, *NOT_SUPPORTED, *WITHOUT_EFFECT))
    is_one = isinstance(body.prompt, list) and len(body.prompt) == 1
    return Ask(
        create=create_body(
            Task.TEXT_GENERATION,
            body.model,
            input_data={"prompt": body.prompt[0] if is_one else body.prompt},
            parameters=parameters,
        ),
        model=body.model,
        names={"input_data": "", **{f"parameters.{ours}": theirs for theirs, ours in PARAMETERS.items()}}
        | {"parameters": ""},
        is_streamed=body.stream,
        wants_usage=body.wants_usage,
    )


def text_completion(request_id: UUID, outcome: Mapping[str, Any]) -> dict[str, Any]:
    """The `text_completion` of a completed request."""
    output = outcome["output_data"]
    choice = {
        "index": 0,
        "text": output["output"],
        "logprobs": output.get("logprobs"),
        "finish_reason": finish_reason_of(output),
    }
    return {**_head(request_id), "model": outcome["model"], "choices": [choice], "usage": usage_of(outcome)}


def _head(request_id: UUID) -> dict[str, Any]:
    return {"id": f"cmpl-{request_id}", "object": _OBJECT, "created": created_of(request_id)}


class TextChunks(Chunks):
    """The events of a model request as pieces of a text completion."""

    def _head_of(self, request_id: UUID) -> dict[str, Any]:
        return _head(request_id)

    def _open(self) -> bytes:
        self.has_begun = True
        return b""

    def _delta(self, part: Part) -> bytes:
        return self._chunk({"content": part.text}) if part.segment is Segment.OUTPUT else b""

    def _choice_of(self, delta: Mapping[str, Any]) -> dict[str, Any]:
        return {"text": delta.get("content", "")}
