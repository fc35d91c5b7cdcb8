"""Create-and-wait through the server against the same call through a bare proxy, in one run on one machine.

Quote the ratio, never the rates: both sides, the model provider and the load share the machine's cores.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

PROJECT = Path(__file__).resolve().parents[1]
BODY = b'{"model_type":"text2text","input_data":{"prompt":"Write a haiku about rain."}}'
START_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Round:
    """One measured stretch: answers per second and latency percentiles in milliseconds."""

    per_second: float
    p50_ms: float
    p99_ms: float


async def load(url: str, headers: dict[str, str], *, connections: int, seconds: float) -> Round:
    """Closed loop: each connection sends its next request when it has the answer to the last."""
    taken: list[float] = []
    deadline = time.perf_counter() + seconds

    async def client(session: aiohttp.ClientSession) -> None:
        while (began := time.perf_counter()) < deadline:
            async with session.post(url, data=BODY, headers=headers) as response:
                answer = await response.read()
                assert response.status == 200, answer
            taken.append(time.perf_counter() - began)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections)) as session:
        began = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(connections)))
        elapsed = time.perf_counter() - began
    percentiles = statistics.quantiles(taken, n=100)
    return Round(len(taken) / elapsed, percentiles[49] * 1000, percentiles[98] * 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    with ExitStack() as stack:
        upstream, proxy, server = (_free_port() for _ in range(3))
        stack.enter_context(_process("bench.upstream", str(upstream), port=upstream))
        stack.enter_context(_process("bench.proxy", str(proxy), str(upstream), port=proxy))
        data = stack.enter_context(tempfile.TemporaryDirectory())
        settings = {
            "DATA_DIR": data,
            "PORT": str(server),
            "HF_BASE_URL": f"http://127.0.0.1:{upstream}",
            "TEXT_MODELS": "org/model",
            "RATE_LIMIT_PER_MINUTE": "0",
            "CONCURRENCY": str(options.connections),
            "LOG_LEVEL": "warning",
        }
        stack.enter_context(_process("server", "serve", port=server, settings=settings))
        token = {"Authorization": f"Bearer {_sign_up(server)}"}
        ratios = []
        for number in range(1, options.rounds + 1):
            through = {
                name: asyncio.run(
                    load(
                        f"http://127.0.0.1:{port}/api/requests",
                        {"Content-Type": "application/json", **token},
                        connections=options.connections,
                        seconds=options.seconds,
                    )
                )
                for name, port in (("proxy", proxy), ("server", server))
            }
            ratios.append(through["server"].per_second / through["proxy"].per_second)
            for name, measured in through.items():
                print(
                    f"round {number}  {name:<6} {measured.per_second:7.0f}/s  "
                    f"p50 {measured.p50_ms:6.1f} ms  p99 {measured.p99_ms:6.1f} ms"
                )
        print(f"ratio server/proxy: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


@contextmanager
def _process(module: str, *arguments: str, port: int, settings: dict[str, str] | None = None) -> Iterator[None]:
    """A Python program of ours that listens on a port, for as long as the block lasts."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(  # noqa: S603 - our own programs
            [sys.executable, "-m", module, *arguments],
            cwd=PROJECT,
            env=os.environ | (settings or {}),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_for(port, process)
            yield
        except BaseException:
            output.seek(0)
            sys.stderr.write(output.read().decode()[-4000:])
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError("a program of the benchmark ended early")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=1):
                return
        except urllib.error.HTTPError as error:
            if error.code == 404:  # not our server: whatever listens there is up
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


def _sign_up(port: int) -> str:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/auth/signup",
        data=b'{"email":"bench@example.com","password":"correct horse battery"}',
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - loopback
        return str(json.load(response)["token"])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
