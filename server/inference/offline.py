"""A test double of the models, for developers of apps: each behaves as its name says. It is not AI and says so."""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from server.errors import Code
from server.inference.breaker import Breaker
from server.inference.events import Call, Check, Completed, Delta, Event, Failed, Started
from server.model_request import Usage

INTRODUCTION = "Offline model, not AI:"
LONG_STREAM_WORDS = 300
LONG_STREAM_PAUSE_S = 0.02
LOADING_S = 2.0
_MAX_QUOTE = 2000
_MAX_LOADING = 1000
_WORD = re.compile(r"\s*\S+")
_CREDITS = (
    "The server's Hugging Face account has no credits left: this is the offline double of that case. "
    "Its operator would have to buy credits."
)

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Script:
    """How a model behaves: seconds before its answer, seconds between words, and whether it stops in the middle."""

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
    """Implements `Upstream` without a network. Tokens are words, so usage is a real count."""

    def __init__(self, *, sleep: Sleep = asyncio.sleep) -> None:
        self.breaker = Breaker()
        self._sleep = sleep
        self._loading: set[str] = set()

    async def generate(self, call: Call, *, timeout_s: float) -> AsyncGenerator[Event, None]:
        model = next(iter(call.models), "offline/echo")
        prompt = _prompt_of(call)
        if model == "offline/no-credits":
            yield Failed(Code.MODEL_ERROR, _CREDITS, model=model)
            return
        script = _SCRIPTS.get(model)
        if script is None:
            yield Failed(Code.MODEL_ERROR, f"There is no offline model of the name {model}.")
            return
        words = _WORD.findall(_answer(prompt, is_long=script.is_long))
        if max_tokens := call.parameters.get("max_tokens") or call.parameters.get("max_new_tokens"):
            words, is_complete = words[:max_tokens], len(words) <= max_tokens
        else:
            is_complete = True
        seconds = script.delay_s + script.pause_s * len(words)
        if seconds > timeout_s:
            await self._sleep(timeout_s)
            yield Failed(Code.MODEL_ERROR, f"The model did not answer within {timeout_s:.0f} s.", model=model)
            return
        if model == "offline/loading-503" and self._is_first_call(prompt):
            yield Failed(
                Code.MODEL_ERROR,
                f"Model {model} is currently loading.",
                transient=True,
                retry_after_s=LOADING_S,
                model=model,
            )
            return
        if script.delay_s:
            await self._sleep(script.delay_s)
        yield Started(model, "offline")
        spoken = words[: len(words) // 2] if script.is_cut else words
        for word in spoken:
            yield Delta(word)
            if script.pause_s:
                await self._sleep(script.pause_s)
        usage = Usage(len(prompt.split()) + len(spoken), len(spoken))
        output: dict[str, Any] = {"output": "".join(spoken), "offline": True}
        if script.is_cut:
            message = "The answer was cut off before its end; what had arrived is kept."
            yield Failed(Code.MODEL_ERROR, message, output_data=output | {"partial": True}, usage=usage, model=model)
        else:
            output["finish_reason"] = "stop" if is_complete else "length"
            yield Completed(output, usage, model)

    def _is_first_call(self, prompt: str) -> bool:
        """True every other time for a prompt: the model is loading when first asked, and answers when asked again."""
        if prompt in self._loading:
            self._loading.remove(prompt)
            return False
        if len(self._loading) >= _MAX_LOADING:
            self._loading.clear()
        self._loading.add(prompt)
        return True

    async def check(self) -> Check:
        return Check(None, "The offline test double is always there. It is not AI.")

    async def listing(self) -> None:
        """There is nobody who would list anything."""

    async def close(self) -> None:
        """There is nothing to close."""


def _prompt_of(call: Call) -> str:
    if "prompt" in call.input_data:
        return str(call.input_data["prompt"])
    return str(call.input_data["messages"][-1]["content"])


def _answer(prompt: str, *, is_long: bool) -> str:
    quote = prompt if len(prompt) <= _MAX_QUOTE else prompt[:_MAX_QUOTE] + "…"
    answer = f'{INTRODUCTION} you said "{quote}"'
    if is_long:
        answer += "".join(f" word{number}" for number in range(1, LONG_STREAM_WORDS + 1))
    return answer
