"""Open-loop load: requests are sent at fixed times, without waiting for earlier answers."""

import asyncio
import itertools
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

NO_ANSWER = 0
"""Used as the status if the connection ended without one."""
_TIMEOUT_S = 120.0
_LAG_PROBE_S = 0.01


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one create. It was due `due_s` after the start of the load, and took `taken_s` to the last byte."""

    due_s: float
    taken_s: float
    status: int
    id: str | None = None
    has_retry_after: bool = False
    reason: str = ""
    """The error text of an error answer."""

    @property
    def is_accepted(self) -> bool:
        return self.status in {200, 202}


@dataclass(slots=True)
class Load:
    """Sends `per_second` creates that wait for their result, at even intervals, from these users in turn."""

    url: str
    tokens: Sequence[str]
    per_second: float
    body: Callable[[int], bytes]
    """The body of the n-th request."""
    wait_s: int = 60

    async def run(self, session: aiohttp.ClientSession, seconds: float) -> list[Answer]:
        """Send the load for this long, and return when every request is answered."""
        heads = [
            {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Prefer": f"wait={self.wait_s}"}
            for token in self.tokens
        ]
        turns = itertools.cycle(heads)
        began, answers = time.monotonic(), []
        async with asyncio.TaskGroup() as group:
            for number in range(int(seconds * self.per_second)):
                due = began + number / self.per_second
                if (early := due - time.monotonic()) > 0:
                    await asyncio.sleep(early)
                answers.append(group.create_task(self._create(session, began, due, next(turns), self.body(number))))
        return [answer.result() for answer in answers]

    async def _create(
        self, session: aiohttp.ClientSession, began: float, due: float, headers: dict[str, str], body: bytes
    ) -> Answer:
        try:
            async with session.post(self.url, data=body, headers=headers) as response:
                content = await response.read()
        except (aiohttp.ClientError, OSError) as error:
            return Answer(due - began, time.monotonic() - due, NO_ANSWER, reason=type(error).__name__)
        taken_s = time.monotonic() - due
        item: dict[str, Any] = json.loads(content)
        return Answer(
            due - began,
            taken_s,
            response.status,
            id=item.get("id"),
            has_retry_after="Retry-After" in response.headers,
            reason=item.get("detail", ""),
        )


def open_session() -> aiohttp.ClientSession:
    """A client session without a limit of connections."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
        timeout=aiohttp.ClientTimeout(_TIMEOUT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


class OwnLag:
    """The lag of the measuring process's own event loop, which is the uncertainty of its results."""

    def __init__(self) -> None:
        self.seen_s: list[float] = []

    async def watch(self) -> None:
        while True:
            due = time.monotonic() + _LAG_PROBE_S
            await asyncio.sleep(_LAG_PROBE_S)
            self.seen_s.append(time.monotonic() - due)

    def __str__(self) -> str:
        return f"the measuring process itself was late by {spread(self.seen_s)}"


def spread(seconds: Iterable[float]) -> str:
    """Median, 99th percentile and maximum, in milliseconds."""
    taken = sorted(seconds)
    if not taken:
        return "(none)"
    return f"p50 {_ms(statistics.median(taken))}, p99 {_ms(percentile(taken, 99))}, max {_ms(taken[-1])}"


def percentile(seconds: Iterable[float], percent: int) -> float:
    taken = sorted(seconds)
    return statistics.quantiles(taken, n=100, method="inclusive")[percent - 1] if len(taken) > 1 else taken[0]


def count_by_status(answers: Sequence[Answer]) -> str:
    """The number of answers with each status, and their durations."""
    lines = []
    for status, count in sorted(Counter(answer.status for answer in answers).items()):
        name = str(status) if status else "none"
        lines.append(f"    {name:>4}  {count:6}  {spread(a.taken_s for a in answers if a.status == status)}")
    return "\n".join(lines)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
