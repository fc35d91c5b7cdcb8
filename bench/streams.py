"""Measures many concurrent streams: lost deltas, their delay, and memory, compared with a bare proxy.

Each of 500 clients creates a request with `Accept: text/event-stream`; the answer has 20 deltas a second. The delay of
a delta is the time from the provider to the client. The same load goes through a bare aiohttp proxy, so the difference
is the delay that the server adds.

    python -m bench.streams [--streams 500] [--per-second 20] [--seconds 30]
"""

import argparse
import asyncio
import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import aiohttp
import uvloop

from bench.open_loop import OwnLag, open_session, spread
from bench.processes import allow_many_connections, free_port, process, sign_up
from bench.usage import CpuUse, load_average, memory_mb

WARM_UP_S = 3.0


@dataclass(slots=True)
class Streams:
    """The results of the clients. `late_s` excludes the first seconds, in which all of them connect."""

    url: str
    headers: dict[str, str]
    body: bytes
    text_of: Callable[[dict[str, object]], str]
    """The text of an event; empty if it has none."""
    late_s: list[float] = field(default_factory=list)
    complete: int = 0
    lost: int = 0

    async def run(self, session: aiohttp.ClientSession, count: int, deltas: int) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(self._read(session, deltas, time.monotonic() + WARM_UP_S))

    async def _read(self, session: aiohttp.ClientSession, deltas: int, counts_from: float) -> None:
        text = ""
        async with session.post(self.url, data=self.body, headers=self.headers) as response:
            assert response.status == 200, await response.read()
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                arrived = time.monotonic()
                piece = self.text_of(json.loads(line[6:]))
                text += piece
                for stamp in piece.split(";"):
                    if stamp and arrived > counts_from:
                        self.late_s.append(arrived - float(stamp.split()[1]))
        numbers = [int(stamp.split()[0]) for stamp in text.split(";") if stamp]
        self.complete += numbers == list(range(deltas))
        self.lost += deltas - len(numbers)


def _text_of_ours(data: dict[str, object]) -> str:
    return str(data["text"]) if "segment" in data else ""


def _text_of_upstream(data: dict[str, object]) -> str:
    choice = data["choices"][0]  # type: ignore[index]
    return str(choice["delta"]["content"])


@contextmanager
def _programs(streams: int) -> Iterator[tuple[int, int, int]]:
    """Upstream, server and proxy; the server's process id, its port, and the proxy's port."""
    upstream, port, proxy = free_port(), free_port(), free_port()
    with ExitStack() as stack:
        stack.enter_context(process("bench.ticking_upstream", str(upstream), port=upstream))
        settings = {
            "DATA_DIR": stack.enter_context(tempfile.TemporaryDirectory()),
            "PORT": str(port),
            "HF_BASE_URL": f"http://127.0.0.1:{upstream}",
            "TEXT_MODELS": "org/model",
            "RATE_LIMIT_PER_MINUTE": "0",
            "CONCURRENCY": str(streams),
            "LOG_LEVEL": "warning",
        }
        child = stack.enter_context(process("server", "serve", port=port, settings=settings))
        stack.enter_context(process("bench.proxy", str(proxy), str(upstream), str(streams), port=proxy))
        yield child.pid, port, proxy


async def _measure(pid: int, port: int, proxy: int, *, streams: int, per_second: float, seconds: float) -> None:
    deltas = int(per_second * seconds)
    prompt = f"{deltas} {per_second:g}"
    plain = {"Content-Type": "application/json"}
    ours = Streams(
        f"http://127.0.0.1:{port}/api/requests",
        plain | {"Authorization": f"Bearer {sign_up(port)}", "Accept": "text/event-stream"},
        json.dumps({"model_type": "text2text", "input_data": {"prompt": prompt}}).encode(),
        _text_of_ours,
    )
    bare = Streams(
        f"http://127.0.0.1:{proxy}/api/requests",
        plain,
        json.dumps({"messages": [{"role": "user", "content": prompt}]}).encode(),
        _text_of_upstream,
    )
    gc.collect()
    gc.freeze()
    before = f"{memory_mb(pid):.0f} MB before"
    async with open_session() as session:
        for name, load in (("bare proxy", bare), ("server", ours)):
            lag, cpu = OwnLag(), CpuUse(pid)
            watch = asyncio.create_task(lag.watch())
            await load.run(session, streams, deltas)
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            print(f"{name}: {load.complete} of {streams} streams complete and in order, {load.lost} deltas lost")
            print(f"  late by {spread(load.late_s)}\n  {cpu}; {lag}")
    print(f"RSS of the server: {before}, {memory_mb(pid):.0f} after, {memory_mb(pid, 'VmHWM'):.0f} at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--per-second", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    allow_many_connections()
    print(load_average())
    with _programs(options.streams) as (pid, port, proxy):
        uvloop.run(
            _measure(pid, port, proxy, streams=options.streams, per_second=options.per_second, seconds=options.seconds)
        )
    print(load_average())


if __name__ == "__main__":
    main()
