"""A model request's events as the chunks of a chat completion."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import orjson

from server.encoding import dumps
from server.errors import Problem, Unavailable
from server.inference.events import Segment
from server.openai.chat import completion_id, finish_reason_of, tool_call_id
from server.openai.outcome import RETRY_AFTER_S, created_of, problem_of, usage_of
from server.openai.refusals import error_event

KEEP_ALIVE = b": still here\n\n"
_DONE = b"data: [DONE]\n\n"
_FIELDS = {Segment.OUTPUT: "content", Segment.REASONING: "reasoning_content"}


class Chunks:
    """Takes the events of one request in their order; each gives the bytes to be sent for it, or none."""

    def __init__(self, request_id: UUID, *, model: str, wants_usage: bool) -> None:
        self._request_id = request_id
        self._head = {
            "id": completion_id(request_id),
            "object": "chat.completion.chunk",
            "created": created_of(request_id),
        }
        self._wants_usage = wants_usage
        self._calls: set[int] = set()
        self._has_role = False
        self.model = model
        """Which model is answering, as far as that is known."""
        self.has_begun = False
        """Whether anything was given out: before, an error can still be the whole response."""
        self.is_over = False

    def take(self, name: str, data: bytes) -> bytes:
        """Raises the `Problem` that ended the request, while nothing was given out."""
        match name:
            case "delta":
                return self._open() + self._delta(orjson.loads(data))
            case "reset":
                return self.fail(_taken_back())
            case "completed" | "failed" | "cancelled":
                outcome = orjson.loads(data)
                problem = problem_of(outcome)
                return self._open() + self._end(outcome) if problem is None else self.fail(problem)
        return b""

    def keep_alive(self) -> bytes:
        """A comment, which begins the response where nothing else does."""
        self.has_begun = True
        return KEEP_ALIVE

    def fail(self, problem: Problem) -> bytes:
        """End with this problem; raise it instead, while nothing was given out."""
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

    def _delta(self, data: Mapping[str, Any]) -> bytes:
        segment = Segment(data["segment"])
        if segment is not Segment.TOOL_CALL:
            return self._chunk({_FIELDS[segment]: data["text"]})
        number = data["index"]
        call: dict[str, Any] = {"index": number}
        function = {"arguments": data["text"]}
        if number not in self._calls:
            self._calls.add(number)
            call |= {"id": tool_call_id(self._request_id, number), "type": "function"}
            function = {"name": data["name"], **function}
        return self._chunk({"tool_calls": [call | {"function": function}]})

    def _end(self, outcome: Mapping[str, Any]) -> bytes:
        self.is_over = True
        self.model = outcome["model"] or self.model
        last = self._chunk({}, finish_reason_of(outcome["output_data"]))
        if self._wants_usage:
            last += self._event({"choices": [], "usage": usage_of(outcome)})
        return last + _DONE

    def _chunk(self, delta: Mapping[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._event({"choices": [choice]} | ({"usage": None} if self._wants_usage else {}))

    def _event(self, fields: Mapping[str, Any]) -> bytes:
        return b"data: %b\n\n" % dumps({**self._head, "model": self.model, **fields})


def _taken_back() -> Problem:
    return Unavailable(
        "The server that ran this request is gone, and its text cannot be taken back; ask again.",
        retry_after_s=RETRY_AFTER_S,
    )
