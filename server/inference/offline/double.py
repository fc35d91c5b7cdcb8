"""The models of the test double: they answer at once, slowly, in a long stream, or not at all."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from server.errors import Code
from server.inference.breaker import Breaker
from server.inference.events import (
    Call,
    Check,
    Completed,
    Delta,
    Event,
    FileChunk,
    GenerationFailed,
    Segment,
    Started,
    Task,
)
from server.inference.offline.sample_files import NOTE
from server.inference.offline.sample_results import INTRODUCTION, make_result, quoted
from server.inference.offline.sample_schemas import Impossible
from server.inference.offline.sample_values import make_value
from server.model_request import Usage
from server.telemetry.instruments import Counters

LONG_STREAM_WORDS = 300
LONG_STREAM_PAUSE_S = 0.02
LOADING_S = 2.0
_MAX_LOADING = 1000
_TEXT_TASKS = frozenset({Task.CHAT_COMPLETION, Task.TEXT_GENERATION})
_TEXTS = frozenset({"text", "refusal"})
_MEDIA = {
    "image_url": "(an image)",
    "input_audio": "(a recording)",
    "audio_url": "(a recording)",
    "video_url": "(a film)",
    "file": "(a file)",
}
"""Texts that are quoted for parts of a message without text."""
_WORD = re.compile(r"\s*\S+")
_CUT = "The answer was cut off before its end; the part that arrived is kept."
_CREDITS = (
    "The server's Hugging Face account has no credits left: this is the offline double of that case. "
    "Its operator would have to buy credits."
)

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Script:
    """The behaviour of a model: seconds before its answer, seconds between words, and whether the answer is cut."""

    delay_s: float = 0.0
    pause_s: float = 0.0
    is_long: bool = False
    is_cut: bool = False


_SCRIPTS = {
    "offline/echo": _Script(),
    "offline/slow-2s": _Script(delay_s=2),
    "offline/slow-20s": _Script(delay_s=20),
    "offline/long-stream": _Script(pause_s=LONG_STREAM_PAUSE_S, is_long=True),
    "offline/loading-503": _Script(),
    "offline/truncated": _Script(is_long=True, is_cut=True),
}


class Offline:
    """Implements `Upstream` without a network. It counts words as tokens."""

    def __init__(self, *, sleep: Sleep = asyncio.sleep) -> None:
        self.breaker = Breaker()
        self.retries = Counters()
        self._sleep = sleep
        self._loading: set[str] = set()

    async def generate(self, call: Call, *, timeout_s: float) -> AsyncGenerator[Event, None]:
        model = next(iter(call.models), "offline/echo")
        script = _SCRIPTS.get(model)
        if script is None:
            message = _CREDITS if model == "offline/no-credits" else f"There is no offline model of the name {model}."
            yield GenerationFailed(Code.MODEL_ERROR, message, model=model)
            return
        prompt = _prompt_of(call)
        make = partial(_text, call, prompt, model) if call.task in _TEXT_TASKS else partial(_result, call, model)
        answer = await asyncio.to_thread(lambda: list(make(script)))  # 2,048 vectors take seconds
        seconds = script.delay_s + script.pause_s * len(answer)
        if seconds > timeout_s:
            await self._sleep(timeout_s)
            yield GenerationFailed(Code.MODEL_ERROR, f"The model did not answer within {timeout_s:.0f} s.", model=model)
            return
        if model == "offline/loading-503" and self._is_first_call(prompt):
            loading = f"Model {model} is currently loading."
            yield GenerationFailed(Code.MODEL_ERROR, loading, transient=True, retry_after_s=LOADING_S, model=model)
            return
        if script.delay_s:
            await self._sleep(script.delay_s)
        yield Started(model, "offline")
        for event in answer:
            yield event
            if script.pause_s and isinstance(event, Delta):
                await self._sleep(script.pause_s)

    def _is_first_call(self, prompt: str) -> bool:
        """True at every second call with a prompt: the model loads at the first call, and answers at the next."""
        if prompt in self._loading:
            self._loading.remove(prompt)
            return False
        if len(self._loading) >= _MAX_LOADING:
            self._loading.clear()
        self._loading.add(prompt)
        return True

    async def check(self) -> Check:
        return Check(None, "The offline test double is always available. It is not AI.")

    async def listing(self, *, max_age_s: float | None = None) -> None:
        """Lists nothing."""

    def known_listing(self) -> None:
        """Lists nothing, so nothing has a price."""

    async def close(self) -> None:
        """Does nothing."""


def _prompt_of(call: Call) -> str:
    """The prompt to quote; a text form of the input for tasks without a prompt."""
    if "prompt" in call.input_data:
        return str(call.input_data["prompt"])
    if "messages" not in call.input_data:
        return repr(sorted(call.input_data.items()))
    content = call.input_data["messages"][-1].get("content") or ""
    if isinstance(content, str):
        return content
    return " ".join(
        part["text"] if part["type"] == "text" else _MEDIA.get(part["type"], "(a part)") for part in content
    )


def _text(call: Call, prompt: str, model: str, script: _Script) -> Iterator[Event]:
    """The events of an answer that quotes the prompt, or calls the required tool."""
    wanted = _wanted_tool(call)
    words = [] if wanted else _WORD.findall(_answer_to(call, prompt, script))
    limit = call.parameters.get("max_tokens") or call.parameters.get("max_new_tokens")
    spoken = words[:limit]
    finish_reason = "stop" if len(spoken) == len(words) else "length"
    if script.is_cut:
        spoken = spoken[: len(spoken) // 2]
    yield from map(Delta, spoken)
    usage = Usage(len(prompt.split()) + len(spoken), len(spoken))
    output: dict[str, Any] = {"output": "".join(spoken), "offline": True}
    if script.is_cut:
        yield GenerationFailed(Code.MODEL_ERROR, _CUT, output_data=output | {"partial": True}, usage=usage, model=model)
        return
    output["finish_reason"] = finish_reason
    if wanted:
        arguments = _typed(wanted.get("parameters"), NOTE, otherwise={})
        yield Delta(arguments, Segment.TOOL_CALL, 0, wanted["name"])
        call_made = {"id": "offline", "type": "function", "function": {"name": wanted["name"], "arguments": arguments}}
        output |= {"finish_reason": "tool_calls", "tool_calls": [call_made]}
    yield Completed(output, usage, model)


def _answer_to(call: Call, prompt: str, script: _Script) -> str:
    more = "".join(f" word{number}" for number in range(1, LONG_STREAM_WORDS + 1)) if script.is_long else ""
    answer = f'{INTRODUCTION} you said "{quoted(prompt)}"{more}'
    form = call.parameters.get("response_format") or {}
    if form.get("type", "text") == "text":
        return answer
    schema = (form.get("json_schema") or {}).get("schema")
    return _typed(schema, NOTE + more, otherwise={"offline": answer})


def _typed(schema: str | Mapping[str, Any] | None, text: str, *, otherwise: Mapping[str, Any]) -> str:
    """JSON that fits the schema; `otherwise` where there is no schema, or no value was found for it."""
    value: Any = otherwise
    if schema is not None:
        with suppress(Impossible, orjson.JSONDecodeError):
            value = make_value(orjson.loads(schema) if isinstance(schema, str) else schema, text=text)
    return json.dumps(value, ensure_ascii=False)


def _wanted_tool(call: Call) -> Mapping[str, Any]:
    """The function that `tool_choice` requires; empty if it requires none."""
    choice = call.parameters.get("tool_choice")
    functions: dict[str, Mapping[str, Any]] = {
        tool["function"]["name"]: tool["function"]
        for tool in call.parameters.get("tools") or ()
        if tool["type"] == "function"
    }
    if isinstance(choice, dict) and "function" in choice:
        name = choice["function"]["name"]
        return functions.get(name, {"name": name})
    return next(iter(functions.values()), {}) if choice == "required" else {}


def _result(call: Call, model: str, script: _Script) -> Iterator[Event]:
    """The events of an answer to a task without streamed text. A cut answer has no partial result."""
    if script.is_cut:
        yield GenerationFailed(Code.MODEL_ERROR, "The answer was cut off before its end.", model=model)
        return
    made = make_result(call)
    for number, (content_type, data) in enumerate(made.files):
        yield FileChunk(data, number, content_type)
    if output := made.data.get("output"):
        yield Delta(output)
    yield Completed({**made.data, "offline": True}, made.usage, model)
