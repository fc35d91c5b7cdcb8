"""One machine, several processes on one port: the parent owns the database and the children, each child serves."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections import deque

import structlog

from server.banner import banner
from server.boot import prepare_database
from server.catalog import Catalog
from server.serve import StopSignals, listen, open_database, serve_database
from server.settings import Settings
from server.storage.database import Database
from server.storage.queries import load_queries, sql_directory

DATABASE_VARIABLE = "AI_SDK_SERVER_DATABASE_URL"
"""How a child learns of the parent's embedded database: by its environment, which only its own user can read."""
MAX_RESTARTS = 5
RESTART_WINDOW_S = 30.0
_READY_TIMEOUT_S = 60.0
_STOP_GRACE_S = 20.0
_PR_SET_PDEATHSIG = 1

log = structlog.get_logger(__name__)


class Workers:
    """Keeps `settings.workers` children alive until told to stop."""

    def __init__(self, settings: Settings, database_url: str, *, port: int) -> None:
        self._settings = settings
        self._environment = os.environ | {DATABASE_VARIABLE: database_url, "PORT": str(port)}
        self._crashes: deque[float] = deque(maxlen=MAX_RESTARTS + 1)
        self._children: dict[int, asyncio.subprocess.Process] = {}
        self._is_stopping = False

    async def start(self, number: int) -> None:
        """Start one child and wait until it says that it is ready, or has ended."""
        reading, writing = os.pipe()
        try:
            self._children[number] = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "server",
                "worker",
                str(number),
                str(writing),
                env=self._environment,
                pass_fds=(writing,),
                start_new_session=True,  # a Ctrl-C reaches the parent alone, which passes it on once
            )
        finally:
            os.close(writing)
        if self._is_stopping:  # asked to stop while it was being made
            self._children[number].send_signal(signal.SIGTERM)
        await _read_one_byte(reading)

    async def keep(self, number: int) -> int:
        """Watch one child and start it anew; returns its exit code when stopping, or when restarts do not help."""
        while True:
            code = await self._children[number].wait()
            if self._is_stopping:
                log.info("worker_ended", worker=number, code=code)
                return 0 if code == -signal.SIGTERM else code  # stopped so early that it had no handler yet
            log.error("worker_died", worker=number, code=code)
            now = time.monotonic()
            self._crashes.append(now)
            if len(self._crashes) > MAX_RESTARTS and now - self._crashes[0] <= RESTART_WINDOW_S:
                return code or 1
            await self.start(number)

    def stop(self, sign: int) -> None:
        self._is_stopping = True
        for child in self._children.values():
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(sign)


async def serve_with_workers(settings: Settings) -> int:
    """Serve from several processes; returns 0 only if each of them ended well."""
    placeholder = listen(settings, shared=True)
    port = placeholder.getsockname()[1]
    async with open_database(settings) as url:
        queries = load_queries(sql_directory() / "queries")
        await prepare_database(settings, Database(url), directory=sql_directory() / "migrations", queries=queries)
        workers = Workers(settings, url, port=port)
        signals = StopSignals()
        try:
            await asyncio.gather(*(workers.start(number) for number in range(settings.workers)))
        finally:
            placeholder.close()
        print(banner(settings, Catalog(settings), port=port), flush=True)  # noqa: T201 - for a person
        keepers = [
            asyncio.create_task(workers.keep(number), name=f"worker-{number}") for number in range(settings.workers)
        ]
        stopping = asyncio.create_task(signals.wait(), name="stop-signal")
        await asyncio.wait([stopping, *keepers], return_when=asyncio.FIRST_COMPLETED)
        is_failed = not stopping.done()
        stopping.cancel()
        workers.stop(signal.SIGTERM)
        codes = await _gather(keepers, workers, signals, timeout_s=settings.drain_s + _STOP_GRACE_S)
        return 1 if is_failed or any(codes) else 0


async def _gather(
    keepers: "list[asyncio.Task[int]]", workers: Workers, signals: StopSignals, *, timeout_s: float
) -> list[int]:
    """The children's exit codes. A second signal is passed on; who takes too long is killed, and loses nothing."""
    hurry = asyncio.create_task(signals.second.wait(), name="hurry")
    await asyncio.wait([hurry, *keepers], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    if hurry.done():
        workers.stop(signal.SIGTERM)
    hurry.cancel()
    _, late = await asyncio.wait(keepers, timeout=timeout_s)
    if late:
        workers.stop(signal.SIGKILL)
    return await asyncio.gather(*keepers)


async def _read_one_byte(descriptor: int) -> None:
    """Wait until the other end writes or closes; then close this one."""
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    loop.add_reader(descriptor, arrived.set)
    try:
        async with asyncio.timeout(_READY_TIMEOUT_S):
            await arrived.wait()
    except TimeoutError:
        log.warning("worker_slow_to_start")
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def work(settings: Settings, *, number: int, ready: int) -> int:
    """One child: serves on the shared port, and tells the parent through the pipe `ready` that it does."""
    die_with_parent()

    def announce() -> None:
        os.write(ready, b".")
        os.close(ready)

    with contextlib.closing(listen(settings, shared=True)) as listener:
        return await serve_database(
            settings,
            os.environ[DATABASE_VARIABLE],
            listener=listener,
            signals=StopSignals(),
            on_ready=announce,
            number=number,
        )


def die_with_parent() -> None:
    """Ask the kernel for a SIGTERM when the parent ends, however it ends (prctl(2); Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
