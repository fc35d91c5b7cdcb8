"""Several processes on one port: the parent owns the database and the child processes; each child serves."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

import structlog

from server.catalog import Catalog
from server.commands.banner import banner
from server.commands.serve import (
    EXIT_CANNOT_WORK,
    StopSignals,
    listen,
    log_choices,
    open_unless_stopped,
    require_safe_aiohttp,
    serve_database,
)
from server.monitoring.siblings import Siblings
from server.settings import Settings
from server.telemetry.log_writer import LogWriter

DATABASE_VARIABLE = "AI_SDK_SERVER_DATABASE_URL"
"""Passes the URL of the parent's database to a child. Only the same user can read a process's environment."""
SOCKETS_VARIABLE = "AI_SDK_SERVER_SOCKETS"
"""Passes the folder in which the children ask each other for their metrics."""
MAX_RESTARTS = 5
RESTART_WINDOW_S = 30.0
_STOP_GRACE_S = 20.0
_PR_SET_PDEATHSIG = 1

log = structlog.get_logger(__name__)


class Workers:
    """Keeps `settings.workers` children running until `stop`."""

    def __init__(self, settings: Settings, database_url: str, *, port: int, sockets: str) -> None:
        ours = {DATABASE_VARIABLE: database_url, SOCKETS_VARIABLE: sockets, "PORT": str(port)}
        self._environment = os.environ | ours
        self._crashes: deque[float] = deque(maxlen=MAX_RESTARTS + 1)
        self._children: dict[int, asyncio.subprocess.Process] = {}
        self._is_ready = [asyncio.Event() for _ in range(settings.workers)]
        self._is_stopping = False

    async def wait_ready(self) -> None:
        """Return once every child is ready. While the database is unavailable, that may take long."""
        for is_ready in self._is_ready:
            await is_ready.wait()

    async def keep(self, number: int) -> int:
        """Run one child, and restart it when it dies.

        Returns its exit code when stopping, when it refused to start, or after too many crashes.
        """
        while not self._is_stopping:
            ready = await self._spawn(number)
            is_ready = await _read_byte(ready)
            if is_ready:
                self._is_ready[number].set()
            code = await self._children[number].wait()
            if self._is_stopping:
                log.info("worker_ended", worker=number, code=code)
                return 0 if code == -signal.SIGTERM else code  # SIGTERM before the child had its handler
            if code == EXIT_CANNOT_WORK and not is_ready:
                return code
            log.error("worker_died", worker=number, code=code)
            now = time.monotonic()
            self._crashes.append(now)
            if len(self._crashes) > MAX_RESTARTS and now - self._crashes[0] <= RESTART_WINDOW_S:
                return code or 1
        return 0

    async def _spawn(self, number: int) -> int:
        """Start one child. Returns the read end of its readiness pipe, which the child's end closes."""
        reading, writing = os.pipe()
        try:
            child = self._children[number] = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "server",
                "worker",
                str(number),
                str(writing),
                env=self._environment,
                pass_fds=(writing,),
                start_new_session=True,  # Ctrl-C reaches only the parent, which forwards it once
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        if self._is_stopping:  # `stop` came during the start; the child has no handler yet, so SIGTERM ends it
            _send(child, signal.SIGTERM)
        return reading

    def stop(self, sign: signal.Signals) -> None:
        """Forward a signal. Children that end from now on are not restarted."""
        self._is_stopping = True
        for child in self._children.values():
            _send(child, sign)


async def serve_with_workers(settings: Settings, output: LogWriter) -> int:
    """Serve from several processes. Returns 0 only if each ended with 0, and 2 if one has a wrong configuration."""
    require_safe_aiohttp()
    signals = StopSignals()
    with contextlib.closing(listen(settings, shared=True)) as placeholder:  # keeps the port between restarts
        port = placeholder.getsockname()[1]
        log_choices(settings)
        async with open_unless_stopped(settings, signals) as url:
            if url is None:
                return 0
            with tempfile.TemporaryDirectory(prefix="ai-sdk-server-") as sockets:
                workers = Workers(settings, url, port=port, sockets=sockets)
                return await _run(workers, settings, signals, output, port=port)


async def _run(workers: Workers, settings: Settings, signals: StopSignals, output: LogWriter, *, port: int) -> int:
    keepers = {asyncio.create_task(workers.keep(number), name=f"worker-{number}") for number in range(settings.workers)}
    stopping = asyncio.create_task(signals.wait(), name="stop-signal")
    ready = asyncio.create_task(workers.wait_ready(), name="workers-ready")
    try:
        await asyncio.wait({ready, stopping, *keepers}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            output.write(banner(settings, Catalog(settings), port=port) + "\n")
        await asyncio.wait({stopping, *keepers}, return_when=asyncio.FIRST_COMPLETED)
        is_failed = not stopping.done()
    finally:
        stopping.cancel()
        ready.cancel()
        workers.stop(signal.SIGTERM)
        codes = await _gather(keepers, workers, signals, timeout_s=settings.drain_s + _STOP_GRACE_S)
    if EXIT_CANNOT_WORK in codes:
        return EXIT_CANNOT_WORK
    return 1 if is_failed or any(codes) else 0


async def _gather(
    keepers: "set[asyncio.Task[int]]", workers: Workers, signals: StopSignals, *, timeout_s: float
) -> list[int]:
    """The children's exit codes. Forwards a second signal. A child that takes too long is killed, without data loss."""
    ended = asyncio.create_task(asyncio.wait(keepers), name="workers-ended")
    hurry = asyncio.create_task(signals.second.wait(), name="hurry")
    await asyncio.wait({ended, hurry}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    if hurry.done():
        workers.stop(signal.SIGINT)  # a second SIGTERM would merge with a first one that is still pending
        await asyncio.wait({ended}, timeout=_STOP_GRACE_S)
    hurry.cancel()
    if not ended.done():
        workers.stop(signal.SIGKILL)
    await ended
    return [keeper.result() for keeper in keepers]


def _send(child: asyncio.subprocess.Process, sign: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(sign)


async def _read_byte(descriptor: int) -> bool:
    """Wait until the other end writes a byte (True) or is closed (False). Then close this end."""
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    loop.add_reader(descriptor, arrived.set)
    try:
        await arrived.wait()
        return bool(os.read(descriptor, 1))
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def work(settings: Settings, *, number: int, ready: int) -> int:
    """The command `worker`: serves on the shared port, and writes a byte to the pipe `ready` once it is ready."""
    die_with_parent()

    def announce() -> None:
        with contextlib.suppress(OSError):  # the parent has died, and SIGTERM follows
            os.write(ready, b".")
        os.close(ready)

    with contextlib.closing(listen(settings, shared=True)) as listener:
        return await serve_database(
            settings,
            os.environ[DATABASE_VARIABLE],
            listener=listener,
            signals=StopSignals(),
            on_ready=announce,
            siblings=Siblings(Path(os.environ[SOCKETS_VARIABLE]), number, settings.workers),
        )


def die_with_parent() -> None:
    """Ask the kernel to send SIGTERM when the parent ends (prctl(2); Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
