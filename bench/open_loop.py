"""Load that does not wait for answers: requests come when they are due, however long the ones before take."""

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
"""In place of a status: the connection ended without one."""
_TIMEOUT_S = 120.0
_LAG_PROBE_S = 0.01


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one create, and when: `due_s` after the start of the load, `taken_s` from then to the last byte."""

    due_s: float
    taken_s: float
    status: int
    id: str | None = None
    has_retry_after: bool = False
    reason: str = ""
    """The error's text, where it is one."""

    @property
    def is_accepted(self) -> bool:
        return self.status in {200, 202}


@dataclass(slots=True)
class Load:
    """Creates that wait for their result, `per_second` of them at even distances, from these users in turn."""

    url: str
    tokens: Sequence[str]
    per_second: float
    body: Callable[[int], bytes]
    """Of the n-th request."""
    wait_s: int = 60

    async def run(self, session: aiohttp.ClientSession, seconds: float) -> list[Answer]:
        """Offer the load for so long, and return when everything is answered."""
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
    """As many connections as there are requests in flight."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
        timeout=aiohttp.ClientTimeout(_TIMEOUT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


class OwnLag:
    """How late the event loop of the measuring process itself was: what it measures is that much in doubt."""

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
    """How many of each, with how long they took."""
    lines = []
    for status, count in sorted(Counter(answer.status for answer in answers).items()):
        name = str(status) if status else "none"
        lines.append(f"    {name:>4}  {count:6}  {spread(a.taken_s for a in answers if a.status == status)}")
    return "\n".join(lines)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
