"""Measures many concurrent long-polls: their cost, the delay of each wake-up, and their effect on other traffic.

Each of 2,000 clients has its own connection. It creates a request whose start is delayed by about a minute (beyond the
rate limit, with `Prefer: respond-async`), long-polls it, and starts again after the answer. So the number of long-polls
is constant, on pending and running requests, and some end at any time. Meanwhile other users create requests with quick
answers. The delay of a wake-up counts from the last byte of the model provider's answer.

    python -m bench.waiters [--waiters 2000] [--seconds 60] [--per-second 100]
"""

import argparse
import asyncio
import gc
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import aiohttp
import uvloop

from bench.open_loop import Answer, Load, OwnLag, count_by_status, open_session, spread
from bench.processes import allow_many_connections, free_port, process, sign_up
from bench.usage import CpuUse, load_average, memory_mb

BOUND_S = 0.1
FAST_S, SLOW_S = 0.02, (10.0, 30.0)
"""The latency of the model provider: for the other traffic, and the range for the long-polled requests."""
QUICK_USERS = 4
AT_ONCE = 20


@dataclass(slots=True)
class Waiters:
    """Clients that always wait. `late_s` contains the delay of each wake-up."""

    url: str
    headers: dict[str, str]
    late_s: list[float] = field(default_factory=list)
    waiting: int = 0
    surprises: Counter[str] = field(default_factory=Counter)
    _opening: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def use_up_the_rate(self, session: aiohttp.ClientSession, count: int) -> None:
        """Create requests that start at once, so that the following ones are delayed."""
        await asyncio.gather(*(self._create(session, FAST_S) for _ in range(count)))

    async def run(self, session: aiohttp.ClientSession) -> None:
        """Run one client."""
        while True:
            seconds = random.uniform(*SLOW_S)  # noqa: S311 - to spread them, not to be secret
            url = f"{self.url}/{await self._create(session, seconds)}"
            self.waiting += 1
            try:
                async with session.get(url, params={"wait": "90"}, headers=self.headers) as response:
                    content = await response.read()
            finally:
                self.waiting -= 1
            arrived, item = time.monotonic(), json.loads(content)
            if item.get("status") == "completed":
                self.late_s.append(arrived - float(item["output_data"]["output"]))
            else:
                self.surprises[f"{response.status} {item.get('status') or item.get('detail')}"] += 1

    async def _create(self, session: aiohttp.ClientSession, seconds: float) -> str:
        headers = self.headers | {"Prefer": "respond-async"}
        async with self._opening, session.post(self.url, data=_body(seconds), headers=headers) as response:
            item = json.loads(await response.read())
            assert response.status == 202, item
            return str(item["id"])


def _body(seconds: float) -> bytes:
    return json.dumps({"model_type": "text2text", "input_data": {"prompt": f"{seconds:.3f} s please"}}).encode()


@contextmanager
def _server(waiters: int) -> Iterator[tuple[int, int]]:
    """A server with a rate limit of as many requests a minute as there are waiters. Yields its process id and port."""
    upstream, port = free_port(), free_port()
    with ExitStack() as stack:
        stack.enter_context(process("bench.slow_upstream", str(upstream), port=upstream))
        settings = {
            "DATA_DIR": stack.enter_context(tempfile.TemporaryDirectory()),
            "PORT": str(port),
            "HF_BASE_URL": f"http://127.0.0.1:{upstream}",
            "TEXT_MODELS": "org/model",
            "RATE_LIMIT_PER_MINUTE": str(waiters),
            "AUTH_RATE_LIMIT_PER_MINUTE": "0",
            "CONCURRENCY": "1000",
            "MAX_BACKLOG": "100000",
            "MAX_BACKLOG_PER_USER": "100000",
            "LOG_LEVEL": "warning",
        }
        child = stack.enter_context(process("server", "serve", port=port, settings=settings))
        yield child.pid, port


async def _measure(pid: int, port: int, *, waiters: int, seconds: float, per_second: float) -> None:
    url = f"http://127.0.0.1:{port}/api/requests"
    tokens = [sign_up(port, f"quick{number}@example.com") for number in range(QUICK_USERS)]
    quick = Load(url, tokens, per_second, lambda _: _body(FAST_S))
    patient = Waiters(url, {"Authorization": f"Bearer {sign_up(port)}", "Content-Type": "application/json"})
    async with open_session() as session:
        await quick.run(session, 3)
        print(f"RSS before: {memory_mb(pid):.0f} MB")
        _report_quick("without waiters", await quick.run(session, seconds / 3))

        await patient.use_up_the_rate(session, waiters)
        clients = [asyncio.create_task(patient.run(session)) for _ in range(waiters)]
        while patient.waiting < waiters * 0.99:  # noqa: ASYNC110 - some are always between two waits
            await asyncio.sleep(0.1)
        patient.late_s.clear()
        print(f"RSS with {patient.waiting} waiting: {memory_mb(pid):.0f} MB")
        gc.collect()
        gc.freeze()
        lag, cpu = OwnLag(), CpuUse(pid)
        watch = asyncio.create_task(lag.watch())
        beside = await quick.run(session, seconds)
        used = str(cpu)
        for task in (watch, *clients):
            task.cancel()
        await asyncio.gather(watch, *clients, return_exceptions=True)
        _report_quick(f"with {waiters} waiters", beside)
        print(f"RSS at the end: {memory_mb(pid):.0f} MB, at most {memory_mb(pid, 'VmHWM'):.0f} MB")
        late = sum(late_s > BOUND_S for late_s in patient.late_s)
        print(f"{len(patient.late_s)} long-polls ended, woken after the answer by {spread(patient.late_s)}")
        print(f"more than {BOUND_S * 1000:.0f} ms late: {late}; ended otherwise: {dict(patient.surprises)}")
        print(f"{used}; {lag}")


def _report_quick(name: str, answers: list[Answer]) -> None:
    print(f"creates that take {FAST_S * 1000:.0f} ms upstream, {name}:\n{count_by_status(answers)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waiters", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--per-second", type=float, default=100.0)
    options = parser.parse_args()
    allow_many_connections()
    print(load_average())
    with _server(options.waiters) as (pid, port):
        uvloop.run(_measure(pid, port, waiters=options.waiters, seconds=options.seconds, per_second=options.per_second))
    print(load_average())


if __name__ == "__main__":
    main()
