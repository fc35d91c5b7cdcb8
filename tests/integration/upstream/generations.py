"""A generation through the shell, with the fake upstream behind it."""

import contextlib
from collections.abc import Callable
from typing import Any

from server.errors import Code
from server.inference.events import Call, Event, GenerationFailed, Task
from server.inference.huggingface import HuggingFace
from server.model_request import Completed
from tests.fakes.huggingface import FakeHuggingFace

TOKEN = "hf_thisIsTheServersOwnToken1234"
PROMPT = "a secret prompt"
MODELS = ("org/first", "org/second")


class Sleeper:
    """Takes the place of sleep: notes the pauses, and does not wait."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.pauses.append(seconds)


class Client:
    """The upstream under test, with the fake behind it."""

    def __init__(self, fake: FakeHuggingFace, **options: Any) -> None:
        self.fake = fake
        self.sleep = Sleeper()
        defaults: dict[str, Any] = {"base_url": fake.url, "token": TOKEN, "timeout_s": 5, "max_retries": 3}
        self.upstream = HuggingFace(
            **(defaults | {"connections": 4, "sleep": self.sleep, "jitter": lambda _low, high: high} | options)
        )

    async def run(self, *models: str, timeout_s: float = 30, task: Task = Task.CHAT_COMPLETION) -> list[Event]:
        call = Call(task, models or MODELS[:1], {"prompt": PROMPT}, {})
        async with contextlib.aclosing(self.upstream.generate(call, timeout_s=timeout_s)) as events:
            return [event async for event in events]

    async def complete(self, *models: str, **options: Any) -> Completed:
        last = (await self.run(*models, **options))[-1]
        assert isinstance(last, Completed), last
        return last

    async def fail(self, *models: str, **options: Any) -> GenerationFailed:
        last = (await self.run(*models, **options))[-1]
        assert isinstance(last, GenerationFailed), last
        assert last.code is Code.MODEL_ERROR
        return last


Connect = Callable[..., Client]


def call(*models: str) -> Call:
    return Call(Task.CHAT_COMPLETION, models or MODELS[:1], {"prompt": PROMPT}, {})
