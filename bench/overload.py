"""Ten times the load of a small server's capacity, in 512 MB: accepted requests are served in time, none is lost.

The server runs 64 generations at once, and the model provider takes 0.5 s for each, so the capacity is 128 requests a
second. The load is an open loop (it does not wait for answers), and all creates wait for their result. First, 100 a
second give the normal latency. Then follow ten times as many, 5 % of them with a prompt of 199 KB (near the limit).
Then 100 a second again show the recovery. In the end every acknowledged request must be in the database, and final.

`--max-backlog` bounds how long those who are let in wait: about so many divided by 128 seconds.

The kernel limits the server to 512 MiB of private writable memory (RLIMIT_DATA), touched or not. Each process of its
Postgres has the same limit. The memory of both together is measured.

    python -m bench.overload [--max-backlog 32] [--per-second 100] [--seconds 30]
"""

import argparse
import asyncio
import gc
import itertools
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import asyncpg
import uvloop

from bench.open_loop import Answer, Load, OwnLag, count_by_status, open_session, percentile, spread
from bench.processes import allow_many_connections, free_port, process, sign_up
from bench.usage import CpuUse, Memory, load_average

MAX_BYTES = 512 * 1024 * 1024
CONCURRENCY, GENERATION_S = 64, 0.5
TIMES, BOUND = 10, 3
USERS = 20
BIG_EVERY, BIG_CHARACTERS = 20, 199_000
NORMAL_S = 20.0
SETTLE_S = 180.0
"""A full default backlog takes 80 s."""
_FINAL = ("completed", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Server:
    """A server process of the benchmark."""

    process: "subprocess.Popen[bytes]"
    port: int
    data_dir: Path

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    @property
    def database_url(self) -> str:
        """The process id of the embedded Postgres, from its pid file."""
        home = self.data_dir / "postgres"
        socket_dir = (home / "data" / "postmaster.pid").read_text().splitlines()[4]
        password = quote((home / "password").read_text().strip(), safe="")
        return f"postgresql://postgres:{password}@/ai_sdk_server?host={quote(socket_dir, safe='')}&port=5432"


@contextmanager
def _server(max_backlog: int) -> Iterator[Server]:
    upstream, port = free_port(), free_port()
    with ExitStack() as stack:
        stack.enter_context(process("bench.slow_upstream", str(upstream), port=upstream))
        data_dir = stack.enter_context(tempfile.TemporaryDirectory())
        settings = {
            "DATA_DIR": data_dir,
            "PORT": str(port),
            "HF_BASE_URL": f"http://127.0.0.1:{upstream}",
            "TEXT_MODELS": "org/model",
            "RATE_LIMIT_PER_MINUTE": "0",
            "AUTH_RATE_LIMIT_PER_MINUTE": "0",
            "CONCURRENCY": str(CONCURRENCY),
            "MAX_BACKLOG": str(max_backlog),
            "LOG_LEVEL": "warning",
        }
        child = stack.enter_context(process("server", "serve", port=port, settings=settings, max_data_bytes=MAX_BYTES))
        yield Server(child, port, Path(data_dir))


def _body(filler: str = "") -> bytes:
    return json.dumps(
        {"model_type": "text2text", "input_data": {"prompt": f"{GENERATION_S} s please {filler}"}}
    ).encode()


SMALL, BIG = _body(), _body("x" * BIG_CHARACTERS)


def _mixed(number: int) -> bytes:
    return SMALL if number % BIG_EVERY else BIG


async def _measure(server: Server, *, per_second: float, seconds: float) -> None:
    url = f"http://127.0.0.1:{server.port}/api/requests"
    tokens = [sign_up(server.port, f"user{number}@example.com") for number in range(USERS)]
    normal = Load(url, tokens, per_second, lambda _: SMALL)
    gc.freeze()
    async with open_session() as session:
        await normal.run(session, 3)
        before = await normal.run(session, NORMAL_S)
        usual_s = percentile((answer.taken_s for answer in before), 99)
        print(
            f"{per_second:.0f} a second for {NORMAL_S:.0f} s, p99 {usual_s * 1000:.0f} ms:\n{count_by_status(before)}"
        )
        memory, lag = Memory(server.process.pid), OwnLag()
        watches = [asyncio.create_task(watch) for watch in (memory.watch(), lag.watch())]
        cpu = CpuUse(server.process.pid)
        flood = asyncio.create_task(Load(url, tokens, per_second * TIMES, _mixed).run(session, seconds))
        await asyncio.sleep(seconds)
        used = str(cpu)
        after = await normal.run(session, NORMAL_S)
        during = await flood
        for watch in watches:
            watch.cancel()
        _report(during, usual_s)
        print(f"{used}; {lag}")
        print(f"normal again {_last_slow_s(after, usual_s):.1f} s after the load\n{count_by_status(after)}")
        print(f"peak of the server {memory.own_mb:.0f} MB, with its Postgres {memory.all_mb:.0f} MB")
        await _audit(server, [*before, *during, *after])


def _report(answers: Sequence[Answer], usual_s: float) -> None:
    print(f"{TIMES} times as many:\n{count_by_status(answers)}")
    for reason, same in itertools.groupby(sorted(a.reason for a in answers if a.reason)):
        print(f"        {len(list(same)):6}  {reason}")
    refused = [answer for answer in answers if answer.status in {429, 503}]
    print(f"refusals without Retry-After: {sum(not answer.has_retry_after for answer in refused)}")
    served_s = [answer.taken_s for answer in answers if answer.is_accepted]
    times = percentile(served_s, 99) / usual_s
    print(f"accepted: {len(served_s)}, {spread(served_s)}; p99 is {times:.2f} times the normal one (bound: {BOUND})")


def _last_slow_s(answers: Sequence[Answer], usual_s: float) -> float:
    """The time of the last request that was rejected, or took notably longer than normal."""
    return max((a.due_s for a in answers if a.status != 200 or a.taken_s > 1.2 * usual_s), default=0.0)


async def _audit(server: Server, answers: Sequence[Answer]) -> None:
    """Wait until all rows are final, then check that every acknowledged request is there."""
    accepted = [answer.id for answer in answers if answer.is_accepted]
    connection, began = await asyncpg.connect(server.database_url), time.monotonic()
    try:
        async with asyncio.timeout(SETTLE_S):
            query = "SELECT count(*) FROM public.model_requests WHERE status IN ('pending', 'processing')"
            while await connection.fetchval(query):  # noqa: ASYNC110 - another process sends no events
                await asyncio.sleep(0.2)
        rows = await connection.fetch("SELECT id::text, status FROM public.model_requests")
    finally:
        await connection.close()
    statuses = {row["id"]: row["status"] for row in rows}
    lost = sum(statuses.get(str(one)) not in _FINAL for one in accepted)
    completed = sum(status == "completed" for status in statuses.values())
    print(f"{len(accepted)} acknowledged, {lost} of them lost; {completed} of {len(rows)} rows completed", end=", ")
    print(f"all final {time.monotonic() - began:.1f} s after the measurement; alive: {server.is_alive}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-backlog", type=int, default=CONCURRENCY // 2)
    parser.add_argument("--per-second", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    allow_many_connections()
    print(f"{load_average()}; MAX_BACKLOG={options.max_backlog}, RLIMIT_DATA {MAX_BYTES // 2**20} MiB")
    with _server(options.max_backlog) as server:
        uvloop.run(_measure(server, per_second=options.per_second, seconds=options.seconds))
    print(load_average())


if __name__ == "__main__":
    main()
