"""A model provider that answers each prompt with itself and the number of the call, and can go away and come back."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

from tests.fakes.huggingface import event

_CUT_AFTER_S = 0.1
_NOT_YET_LISTENING = 0


def reply_to(prompt: str, call: int) -> str:
    """The text of an answer: two answers to one prompt are never the same."""
    return f"{prompt}, call {call}"


@dataclass(slots=True)
class CountingUpstream:
    """An async context manager. Its log of calls is what a test believes about what reached the provider."""

    delay_s: Callable[[str], float] = lambda _prompt: 0.0
    """How long the answer to a prompt takes."""
    on_call: Callable[[str], None] = lambda _prompt: None
    """Called with the prompt when a call begins."""
    calls: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    """By prompt; an answer counts when its last byte was handed to the kernel."""
    called_at: list[float] = field(default_factory=list)
    """By the monotonic clock, in order."""
    is_out_of_order: bool = False
    """Every call is answered with status 503."""
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)
    _port: int = _NOT_YET_LISTENING
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        await self.come_up()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.go_down()

    async def come_up(self) -> None:
        """Listen; always on the same port."""
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_get("/v1/models", _list_models)
        app.router.add_post("/v1/chat/completions", self._complete)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=_CUT_AFTER_S)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def go_down(self) -> None:
        """Cut what runs, and refuse connections from then on."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def wait_called(self, count: int) -> None:
        """Until so many calls have begun."""
        async with self._news:
            await self._news.wait_for(lambda: self.calls.total() >= count)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        prompt = body["messages"][-1]["content"]
        self.calls[prompt] += 1
        self.called_at.append(time.monotonic())
        text = reply_to(prompt, self.calls[prompt])
        async with self._news:
            self._news.notify_all()
        self.on_call(prompt)
        if self.is_out_of_order:
            return web.json_response({"error": "out of order"}, status=503)
        await asyncio.sleep(self.delay_s(prompt) / 2)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        half = len(text) // 2
        await response.write(_delta(text[:half]))
        await asyncio.sleep(self.delay_s(prompt) / 2)
        await response.write(_delta(text[half:]) + _delta("", finish_reason="stop") + b"data: [DONE]\n\n")
        await response.write_eof()
        self.answered[prompt] += 1
        return response


def _delta(text: str, *, finish_reason: str | None = None) -> bytes:
    choice: dict[str, Any] = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
    return event({"choices": [choice]})


async def _list_models(_request: web.Request) -> web.Response:
    return web.json_response(text=json.dumps({"object": "list", "data": [{"id": "org/model", "object": "model"}]}))
