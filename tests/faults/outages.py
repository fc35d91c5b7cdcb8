"""A server under load whose database goes away: what its clients see meanwhile, and how soon it is well again."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.faults.audit import audit, settle
from tests.faults.clients import Clients
from tests.faults.processes import ServerProcess
from tests.faults.upstream import CountingUpstream

IN_FLIGHT = 40
HEALTHY_WITHIN_S = 2.0
_WARM_UP_S = 1.0
_COOL_DOWN_S = 1.0
_PROBE_S = 0.1
_STORM_PER_S = 5
_LOUD = {"warning", "error", "critical"}

Outage = Callable[[], Awaitable[None]]
"""Takes the database away, and returns as soon as it is back."""


@dataclass(slots=True)
class Probes:
    """What reads were answered while the database was away: status and whether there was a `Retry-After`."""

    server: ServerProcess
    answers: Counter[tuple[int, bool]] = field(default_factory=Counter)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            [result] = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(result, asyncio.CancelledError), "the probes ended early"

    async def _run(self) -> None:
        headers = {"Authorization": f"Bearer {self.server.token}"}
        paths = ("/api/requests", "/api/requests/0193f5d0-0000-7000-8000-000000000000", "/auth/user")
        async with aiohttp.ClientSession(f"http://127.0.0.1:{self.server.port}", headers=headers) as session:
            while True:
                for path in paths:
                    async with session.get(path) as response:
                        await response.read()
                        self.answers[response.status, "Retry-After" in response.headers] += 1
                await asyncio.sleep(_PROBE_S)


async def endure(
    server: ServerProcess, url: str, upstream: CountingUpstream, outage: Outage, *, healthy_within_s: float
) -> None:
    """Load, outage, load; then everything that was accepted must be there and have ended well.

    `url` leads to the database past whatever stands before it.
    """
    clients, probes = Clients(server), Probes(server)
    pid = server.process.pid if server.process is not None else None
    async with clients.in_flight(IN_FLIGHT):
        await asyncio.sleep(_WARM_UP_S)
        seen, sent, began = server.log.stat().st_size, len(clients.told), time.monotonic()
        async with probes.running():
            await outage()
            healthy_s = await _time_until_healthy(clients)
        lasted_s = time.monotonic() - began
        loud = _loud_lines(server, since=seen)
        await asyncio.sleep(_COOL_DOWN_S)
        statuses = Counter(told.status for told in clients.told[sent:])
    await settle(url, timeout_s=60)
    result = await audit(url, clients, upstream)
    print(f"\n{lasted_s:.1f} s; healthy {healthy_s:.2f} s after the database; creates {dict(statuses)}")
    print(f"reads {dict(probes.answers)}; {loud.total()} warnings {dict(loud)}; rows {dict(result.statuses)}")
    assert server.is_running
    assert server.process is not None
    assert server.process.pid == pid
    assert set(result.statuses) == {"completed"}
    assert {told.status for told in clients.told} <= {200, 202, 503, None}  # None: the clients went first
    assert all(told.retry_after for told in clients.told if told.status == 503)
    assert {told.polled for told in clients.told} <= {200, 503, None}
    assert set(probes.answers) <= {(200, False), (404, False), (503, True)}
    assert loud.total() <= 20 + _STORM_PER_S * lasted_s
    assert healthy_s <= healthy_within_s


async def _time_until_healthy(clients: Clients) -> float:
    """Seconds until the server says that it is ready, and accepts and runs a request."""
    began = time.monotonic()
    async with asyncio.timeout(60):
        while not await _works(clients):  # noqa: ASYNC110 - another process tells nobody
            await asyncio.sleep(0.02)
    return time.monotonic() - began


async def _works(clients: Clients) -> bool:
    status, _ = await asyncio.to_thread(clients.server.call, "GET", "/health/ready")
    if status != 200:
        return False
    [told] = await clients.send(1, waits=True)
    return told.status == 200


def _loud_lines(server: ServerProcess, *, since: int) -> "Counter[str]":
    """Log lines that ask for attention, by event; a traceback counts with every line."""
    counted: Counter[str] = Counter()
    for line in server.log.read_bytes()[since:].decode().splitlines():
        try:
            entry: dict[str, Any] = json.loads(line)
        except ValueError:
            counted["not JSON"] += 1
            continue
        if entry["level"] in _LOUD:
            counted[entry["event"]] += 1
    return counted
