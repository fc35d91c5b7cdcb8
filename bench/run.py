"""Compares create-and-wait through the server with the same call through a bare proxy, in one run on one machine.

Quote the ratio, never the rates: both sides, the model provider and the load share the machine's cores.

    python -m bench.run [--answers json sse] [--rounds 5] [--connections 64]
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import aiohttp

from bench.processes import free_port, process, sign_up

BODY = b'{"model_type":"text2text","input_data":{"prompt":"Write a haiku about rain."}}'
WARM_UP_S = 1.0


@dataclass(frozen=True, slots=True)
class Round:
    """One measurement: answers per second, and latency percentiles in milliseconds."""

    per_second: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the comparison."""

    name: str
    port: int
    headers: dict[str, str]

    def load(self, *, connections: int, seconds: float) -> Round:
        return asyncio.run(_load(self, connections, seconds))


async def _load(side: Side, connections: int, seconds: float) -> Round:
    """Closed loop: each connection sends its next request after the answer to the last one."""
    url, taken = f"http://127.0.0.1:{side.port}/api/requests", list[float]()
    deadline = time.perf_counter() + seconds

    async def client(session: aiohttp.ClientSession) -> None:
        while (began := time.perf_counter()) < deadline:
            async with session.post(url, data=BODY, headers=side.headers) as response:
                answer = await response.read()
                assert response.status == 200, answer
            taken.append(time.perf_counter() - began)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections)) as session:
        began = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(connections)))
        elapsed = time.perf_counter() - began
    percentiles = statistics.quantiles(taken, n=100)
    return Round(len(taken) / elapsed, percentiles[49] * 1000, percentiles[98] * 1000)


@contextmanager
def _sides(answer: str, connections: int) -> Iterator[tuple[Side, Side]]:
    """Start a provider with this answer, the server and the proxy."""
    upstream, proxy, server = (free_port() for _ in range(3))
    with ExitStack() as stack:
        stack.enter_context(process("bench.upstream", str(upstream), answer, port=upstream))
        stack.enter_context(process("bench.proxy", str(proxy), str(upstream), port=proxy))
        settings = {
            "DATA_DIR": stack.enter_context(tempfile.TemporaryDirectory()),
            "PORT": str(server),
            "HF_BASE_URL": f"http://127.0.0.1:{upstream}",
            "TEXT_MODELS": "org/model",
            "RATE_LIMIT_PER_MINUTE": "0",
            "CONCURRENCY": str(connections),
            "LOG_LEVEL": "warning",
        }
        stack.enter_context(process("server", "serve", port=server, settings=settings))
        headers = {"Content-Type": "application/json"}
        token = {"Authorization": f"Bearer {sign_up(server)}"}
        yield Side("proxy", proxy, headers), Side("server", server, headers | token)


def compare(answer: str, *, connections: int, rounds: int, seconds: float) -> None:
    """Measure both sides in turn, round by round, and print the ratio."""
    ratios = []
    with _sides(answer, connections) as sides:
        for side in sides:
            side.load(connections=connections, seconds=WARM_UP_S)
        for number in range(1, rounds + 1):
            proxy, server = (side.load(connections=connections, seconds=seconds) for side in sides)
            ratios.append(server.per_second / proxy.per_second)
            for name, measured in (("proxy", proxy), ("server", server)):
                print(
                    f"{answer:<4}  round {number}  {name:<6} {measured.per_second:7.0f}/s  "
                    f"p50 {measured.p50_ms:6.1f} ms  p99 {measured.p99_ms:6.1f} ms"
                )
    spread = f"median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}"
    print(f"{answer:<4}  ratio server/proxy: {spread}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", nargs="+", choices=["json", "sse"], default=["json", "sse"])
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    for answer in options.answers:
        compare(answer, connections=options.connections, rounds=options.rounds, seconds=options.seconds)


if __name__ == "__main__":
    main()
