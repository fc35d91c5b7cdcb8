"""Compares the server with a bare proxy, in one run on one machine: processor time for each request, rate, latency.

Processor time is what survives a noisy machine. Quote its ratio, never the rates. wrk makes the load and nginx is the
provider, because programs of aiohttp would take most of the cores. The order of the sides changes from round to round.

    python -m bench.run [--cases json sse …] [--rounds 7] [--connections 64] [--seconds 3]
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import answers
from bench.nginx import provider
from bench.processes import free_port, process, sign_up
from bench.usage import ProcessorTime, load_average
from bench.wrk import Call, Load, load

BODY = b'{"model_type":"text2text","input_data":{"prompt":"Write a haiku about rain."}}'
CHAT = b'{"model":"org/model","messages":[{"role":"user","content":"Write a haiku about rain."}]}'
JSON = {"Content-Type": "application/json"}
WARM_UP_S = 2.0


@dataclass(frozen=True, slots=True)
class Case:
    """What is called at the server, and what the provider answers. The proxy gets `PROXIED`."""

    call: Call
    answer: bytes
    content_type: str = "application/json"


PROXIED = Call("/api/requests", BODY, JSON)
CASES = {
    "json": Case(Call("/api/requests", BODY, JSON), answers.document()),
    "sse": Case(Call("/api/requests", BODY, JSON), answers.events(), "text/event-stream"),
    "v1": Case(Call("/v1/chat/completions", CHAT, JSON), answers.document()),
    "list": Case(Call("/api/requests?limit=20"), answers.document()),
    "async": Case(Call("/api/requests", BODY, JSON | {"Prefer": "respond-async"}), answers.document()),
}


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the comparison, with its process."""

    name: str
    port: int
    call: Call
    pid: int

    def measure(self, *, connections: int, seconds: float) -> "Measured":
        before = ProcessorTime(self.pid)
        found = load(self.port, self.call, connections=connections, seconds=seconds)
        own_us, children_us = before.since()
        return Measured(found, own_us / found.requests, children_us / found.requests)


@dataclass(frozen=True, slots=True)
class Measured:
    load: Load
    own_us: float
    """Processor time of the process itself, for each request."""
    children_us: float
    """That of the processes that it has started: the embedded Postgres."""

    def __str__(self) -> str:
        return (
            f"{self.own_us:6.0f} us  Postgres {self.children_us:5.0f} us  {self.load.per_second:6.0f}/s  "
            f"p50 {self.load.p50_ms:6.1f} ms  p99 {self.load.p99_ms:6.1f} ms"
        )


@contextmanager
def _sides(case: Case, connections: int) -> Iterator[tuple[Side, Side]]:
    """Start a provider with this answer, the proxy, and the server with its default settings but for limits."""
    upstream, proxy, server = (free_port() for _ in range(3))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        stack.enter_context(provider(upstream, folder, answer=case.answer, content_type=case.content_type))
        bare = stack.enter_context(process("bench.proxy", str(proxy), str(upstream), port=proxy))
        settings = {
            "DATA_DIR": stack.enter_context(tempfile.TemporaryDirectory()),
            "PORT": str(server),
            "HF_BASE_URL": f"http://127.0.0.1:{upstream}",
            "TEXT_MODELS": "org/model",
            "RATE_LIMIT_PER_MINUTE": "0",
            "CONCURRENCY": str(2 * connections),
            "MAX_BACKLOG_PER_USER": "1000000",
            "MAX_BACKLOG": "1000000",
        }
        ours = stack.enter_context(process("server", "serve", port=server, settings=settings))
        token = {"Authorization": f"Bearer {sign_up(server)}"}
        call = Call(case.call.path, case.call.body, case.call.headers | token)
        yield Side("proxy", proxy, PROXIED, bare.pid), Side("server", server, call, ours.pid)


def compare(name: str, *, connections: int, rounds: int, seconds: float) -> float:
    """Measure both sides in turn, round by round. Prints every round; returns the median ratio of processor time."""
    costs, rates = [], []
    with _sides(CASES[name], connections) as sides:
        for side in sides:
            load(side.port, side.call, connections=connections, seconds=WARM_UP_S)
        for number in range(1, rounds + 1):
            order = sides if number % 2 else sides[::-1]
            found = {side.name: side.measure(connections=connections, seconds=seconds) for side in order}
            proxy, server = found["proxy"], found["server"]
            costs.append(server.own_us / proxy.own_us)
            rates.append(server.load.per_second / proxy.load.per_second)
            for side_name, measured in (("proxy", proxy), ("server", server)):
                print(f"{name:<5}  round {number}  {side_name:<6} {measured}", flush=True)
    print(f"{name:<5}  processor time server/proxy: {_spread(costs)};  rate server/proxy: {_spread(rates)}", flush=True)
    return statistics.median(costs)


def _spread(ratios: list[float]) -> str:
    return f"median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=["json", "sse"])
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    print(load_average())
    for name in options.cases:
        compare(name, connections=options.connections, rounds=options.rounds, seconds=options.seconds)


if __name__ == "__main__":
    main()
