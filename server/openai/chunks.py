"""The events of a model request, encoded as the chunks of a chat completion."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson

from server.encoding import dumps_line
from server.errors import Problem, Unavailable
from server.inference.events import REFUSAL, Segment
from server.openai.chat import completion_id, finish_reason_of, image_parts, tool_call_id
from server.openai.outcome import RETRY_AFTER_S, created_of, problem_of, usage_of
from server.openai.refusals import error_event
from server.transcript import EventValue, Final, Part, Reset

KEEP_ALIVE = b": still here\n"
"""A bare comment line. Some clients make an empty event of every blank line, and read it as JSON."""
_DONE = b"data: [DONE]\n\n"
_FIELDS = {Segment.OUTPUT: "content", Segment.REASONING: "reasoning_content"}


class Chunks:
    """Encodes the events of one request, in their order."""

    def __init__(self, request_id: UUID, *, model: str, wants_usage: bool) -> None:
        self._request_id = request_id
        self._head = self._head_of(request_id)
        self._wants_usage = wants_usage
        self._calls: set[int] = set()
        self._has_role = False
        self.model = model
        """The model that is answering, as far as it is known."""
        self.has_begun = False
        """Whether any bytes were returned. Until then an error can be the whole response."""
        self.is_over = False
        self.images: Sequence[str] = ()
        """URLs of the images, to be set before the last event."""

    def _head_of(self, request_id: UUID) -> dict[str, Any]:
        return {
            "id": completion_id(request_id),
            "object": "chat.completion.chunk",
            "created": created_of(request_id),
        }

    def encode(self, value: EventValue) -> bytes:
        """The bytes of one event; some have none. Raises the `Problem` that ended the request before the first byte."""
        if isinstance(value, Part):
            return self._delta(value) if self._has_role else self._open() + self._delta(value)
        if isinstance(value, Reset):
            return self.fail(_reset_impossible())
        if isinstance(value, Final):
            outcome = orjson.loads(value.body)
            problem = problem_of(outcome)
            return self._open() + self._end(outcome) if problem is None else self.fail(problem)
        return b""

    def keep_alive(self) -> bytes:
        """A comment. It also begins the response."""
        self.has_begun = True
        return KEEP_ALIVE

    def fail(self, problem: Problem) -> bytes:
        """End with an error event; before the first byte, raise the problem instead."""
        self.is_over = True
        if not self.has_begun:
            raise problem
        return error_event(problem)

    def _open(self) -> bytes:
        self.has_begun = True
        if self._has_role:
            return b""
        self._has_role = True
        return self._chunk({"role": "assistant", "content": ""})

    def _delta(self, part: Part) -> bytes:
        if part.segment is not Segment.TOOL_CALL:
            return self._chunk({"refusal" if part.name == REFUSAL else _FIELDS[part.segment]: part.text})
        call: dict[str, Any] = {"index": part.number}
        function = {"arguments": part.text}
        if part.number not in self._calls:
            self._calls.add(part.number)
            call_id = part.head.id if part.head is not None else ""
            call |= {"id": call_id or tool_call_id(self._request_id, part.number), "type": "function"}
            if part.head is not None and part.head.extra_content:
                call["extra_content"] = part.head.extra_content
            function = {"name": part.name, **function}
        return self._chunk({"tool_calls": [call | {"function": function}]})

    def _end(self, outcome: Mapping[str, Any]) -> bytes:
        self.is_over = True
        self.model = outcome["model"] or self.model
        output = outcome["output_data"]
        last = self._chunk({"images": image_parts(self.images)}) if self.images else b""
        # The deltas have no probabilities of their own: clients join them over all chunks.
        last += self._chunk({}, finish_reason_of(output), output.get("logprobs"))
        if self._wants_usage:
            last += self._event({"choices": [], "usage": usage_of(outcome)})
        return last + _DONE

    def _chunk(self, delta: Mapping[str, Any], finish_reason: str | None = None, logprobs: Any = None) -> bytes:
        choice = {"index": 0, **self._choice_of(delta), "logprobs": logprobs, "finish_reason": finish_reason}
        return self._event({"choices": [choice]} | ({"usage": None} if self._wants_usage else {}))

    def _choice_of(self, delta: Mapping[str, Any]) -> dict[str, Any]:
        return {"delta": delta}

    def _event(self, fields: Mapping[str, Any]) -> bytes:
        return b"data: %b\n\n" % dumps_line({**self._head, "model": self.model, **fields})


def _reset_impossible() -> Problem:
    return Unavailable(
        "The server that ran this request is gone, and its text cannot be taken back; ask again.",
        retry_after_s=RETRY_AFTER_S,
    )
