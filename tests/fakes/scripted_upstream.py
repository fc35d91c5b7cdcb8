"""An upstream that follows a script."""

import asyncio
from collections.abc import AsyncGenerator, Callable

from server.inference.breaker import Breaker
from server.inference.events import Call, Check, Event, Listing
from server.telemetry.instruments import Counters

Step = Event | Exception | asyncio.Event | Callable[[], None]


class ScriptedUpstream:
    """Every call goes through `steps`: an event is yielded, an exception raised, an `asyncio.Event` waited for, and a
    function called.
    """

    def __init__(self, *steps: Step) -> None:
        self.steps = steps
        self.breaker = Breaker()
        self.retries = Counters()
        self.calls: list[Call] = []
        self.timeouts: list[float] = []
        self.open_calls = 0
        self.is_waiting = asyncio.Event()
        """Set when a call waits for an event of its script."""
        self.check_result = Check(None, "It answers.")
        self.listed: Listing | None = None

    async def generate(self, call: Call, *, timeout_s: float) -> AsyncGenerator[Event, None]:
        self.calls.append(call)
        self.timeouts.append(timeout_s)
        self.open_calls += 1
        try:
            for step in self.steps:
                if isinstance(step, asyncio.Event):
                    self.is_waiting.set()
                    await step.wait()
                elif isinstance(step, Exception):
                    raise step
                elif callable(step):
                    step()
                else:
                    yield step
        finally:
            self.open_calls -= 1

    async def check(self) -> Check:
        return self.check_result

    async def listing(self, *, max_age_s: float | None = None) -> Listing | None:
        return None

    def known_listing(self) -> Listing | None:
        return self.listed

    async def close(self) -> None:
        pass
