"""The command `serve`: opens socket and database, runs the application, handles signals, and stops in order."""

import asyncio
import contextlib
import errno
import gc
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any
from uuid import uuid4

import aiohttp.http_parser
import structlog
from aiohttp import web

from server.app import create_app
from server.auth.supabase import auth_host
from server.catalog import Catalog
from server.commands.banner import banner
from server.commands.descriptors import connections_within, raise_limit, reporting_exhaustion
from server.commands.instance_file import InstanceFile
from server.commands.notes import notes_of
from server.engine import Engine
from server.errors import CannotStart
from server.http import keys
from server.http.connections import Connections
from server.http.server import Runner
from server.model_request import InstanceId
from server.monitoring.siblings import ALONE, Siblings
from server.settings import Backend, Settings
from server.storage.database import Database
from server.storage.embedded.data_folder import DataFolderInUse
from server.storage.embedded.ephemeral import is_ephemeral
from server.storage.embedded.postgres import EmbeddedPostgres, url_of_running
from server.storage.objects import location_of
from server.telemetry.log_writer import LogWriter

EXIT_CANNOT_WORK = 2
LISTEN_QUEUE = 1024
DEAD_CLIENT_S = 45
"""How long data may stay unacknowledged, and a silent connection without a sign of life."""
_PROBE_AFTER_S, _PROBE_EVERY_S = 30, 10
_CLOSE_TIMEOUT_S = 5.0
_CONNECTIONS_PER_WORKER = 11
"""Six dedicated connections of actors, one of the listener, a pool of four. `resign` opens one when these are idle."""
_SPARE_CONNECTIONS = 20
"""For migrations, tools, people, and connections of dead processes that Postgres has not closed yet."""
_MIN_CONNECTIONS = 40
_GC_THRESHOLDS = (5_000, 20, 100)
_EPHEMERAL_FIX = (
    "This container's disk is not persistent: accounts and requests are LOST when the container is replaced. "
    "Set DATABASE_URL (Supabase, or any Postgres 15+), or mount a volume at DATA_DIR."
)

log = structlog.get_logger(__name__)


async def serve(settings: Settings, output: LogWriter) -> int:
    """Serve until a signal. Returns the exit code: 0 only if everything that was accepted is in the database.

    The banner goes to `output`, as the log does: `print` could block on stdout.
    """
    require_safe_aiohttp()
    signals = StopSignals()
    with contextlib.closing(listen(settings)) as listener:
        port = listener.getsockname()[1]
        log_choices(settings)

        def announce() -> None:
            output.write(banner(settings, Catalog(settings), port=port) + "\n")

        async with open_unless_stopped(settings, signals) as url:
            if url is None:
                return 0
            return await serve_database(settings, url, listener=listener, signals=signals, on_ready=announce)


async def serve_database(
    settings: Settings,
    database_url: str,
    *,
    listener: socket.socket,
    signals: "StopSignals",
    on_ready: Callable[[], None],
    siblings: Siblings = ALONE,
) -> int:
    """Run one instance from the open socket to the last flush. `siblings` are the other workers of this server."""
    with contextlib.ExitStack() as stack:
        instance_id, predecessors = stack.enter_context(_instance(settings, siblings.number))
        app = create_app(
            settings,
            database_url=database_url,
            instance_id=instance_id,
            predecessors=predecessors,
            siblings=siblings,
        )
        engine = app[keys.ENGINE]
        limit = connections_within(raise_limit(), upstream=settings.concurrency)
        places = Connections(limit, proxies=settings.proxy_networks)
        app[keys.METRICS].sources.connections = places.__len__
        runner = Runner(app, shutdown_timeout_s=_CLOSE_TIMEOUT_S, places=places)
        stack.enter_context(reporting_exhaustion())
        await runner.setup()
        try:
            await web.SockSite(runner, listener, backlog=LISTEN_QUEUE).start()
            if await _first_of(app[keys.LIFECYCLE].wait_ready(), signals, engine):
                on_ready()
                tune_garbage_collector()
                await _first_of(None, signals, engine)
            if engine.task is not None and engine.task.done():
                return _report_failure(engine.task)
            is_flushed = await engine.drain(timeout_s=settings.drain_s, hurry=signals.second)
            await engine.resign()
            log.info("stopped", flushed=is_flushed)
            return 0 if is_flushed else 1
        finally:
            await runner.cleanup()


def tune_garbage_collector() -> None:
    """Exclude all present objects from collections, and collect less often.

    These objects live as long as the process. A request creates some thousand objects, few of them in cycles; Python's
    default threshold of 700 would start a collection at every request.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


async def _first_of(event: Coroutine[Any, Any, None] | None, signals: "StopSignals", engine: Engine) -> bool:
    """Wait for the event, a signal or the end of the engine. True if the event came first."""
    waits = {asyncio.create_task(signals.wait(), name="stop-signal")}
    wanted = None
    if event is not None:
        wanted = asyncio.create_task(event, name="ready")
        waits.add(wanted)
    try:
        await asyncio.wait(waits | ({engine.task} if engine.task else set()), return_when=asyncio.FIRST_COMPLETED)
        return wanted is not None and wanted.done()
    finally:
        for wait in waits:
            wait.cancel()


def listen(settings: Settings, *, shared: bool = False) -> socket.socket:
    """Bind the port, before anything else is started. Raises `CannotStart`."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with contextlib.ExitStack() as undo:
        try:
            listener = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            _detect_dead_clients(listener)
            listener.bind((settings.host, settings.port))
        except (OSError, UnicodeError) as error:
            raise CannotStart(_explain_bind(error, settings)) from None
        undo.pop_all()
    return listener


def _detect_dead_clients(listener: socket.socket) -> None:
    """Let the kernel close connections whose client is gone without a FIN. Accepted sockets inherit the options.

    The timeout bounds retransmissions, unanswered probes, and a client that has no room for data (tcp(7), Linux only).
    Without it the kernel gives up after 15 minutes of retransmissions, and probes an idle connection after two hours.
    """
    if sys.platform == "linux":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_CLIENT_S * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_AFTER_S)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_EVERY_S)


def _explain_bind(error: OSError | UnicodeError, settings: Settings) -> str:
    """One line with the fix for a failed bind."""
    host, port = settings.host, settings.port
    match error:
        case socket.gaierror() | UnicodeError():
            return (
                f"HOST={host} is not a name that this machine knows: set HOST to an address, such as 0.0.0.0 for all."
            )
        case OSError(errno=errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT):
            return f"HOST={host} is not an address of this machine: set HOST to one that is, or to 0.0.0.0 for all."
        case OSError(errno=errno.EACCES):
            return f"port {port} is reserved for root on this machine: choose one from 1024 up: PORT=3001 make run."
        case OSError(errno=errno.EADDRINUSE):
            return f"port {port} on {host} is in use: stop what uses it, or choose another: PORT=3001 make run."
        case _:
            return f"port {port} on {host} cannot be listened on ({error}): set HOST or PORT to another."


def log_choices(settings: Settings) -> None:
    """Log the choice for each part, and what a person should know about the settings. Logs no secrets."""
    url, backend = settings.database_url, settings.backend
    database = f"embedded in {settings.data_dir}" if url is None else Database(url.get_secret_value()).place
    model = f"{backend.value} at {settings.hf_base_url}" if backend is Backend.HUGGINGFACE else backend.value
    embedded = f"embedded, sign-ups: {settings.sign_up_policy}"
    accounts = embedded if settings.supabase_url is None else f"Supabase Auth at {auth_host(settings)}"
    chosen = {"database": database, "accounts": accounts, "model": model, "files": str(location_of(settings))}
    for part, choice in chosen.items():
        log.info("chosen", part=part, choice=choice)
    if "*" in settings.host_names:
        log.info("any_host_answered", note="Set ALLOWED_HOSTS to the names of this server, against DNS rebinding.")
    for note in notes_of(settings):
        log.warning(note.event, note=note.text)


@contextlib.asynccontextmanager
async def open_unless_stopped(settings: Settings, signals: "StopSignals") -> AsyncIterator[str | None]:
    """As `open_database`, but a signal cancels and undoes the opening; then the value is None."""
    async with contextlib.AsyncExitStack() as stack:
        opening = asyncio.create_task(stack.enter_async_context(open_database(settings)), name="open-database")
        stopping = asyncio.create_task(signals.wait(), name="stop-signal")
        try:
            await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            opening.cancel()
            await asyncio.wait({opening})
        if opening.cancelled():
            log.info("stopped", flushed=True)
        yield None if opening.cancelled() else opening.result()


@contextlib.asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[str]:
    """The URL of the configured database, else of the embedded one, which runs until the block ends."""
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    if is_ephemeral(settings.data_dir):
        log.warning("data_will_be_lost", data_dir=str(settings.data_dir), fix=_EPHEMERAL_FIX)
    max_connections = max(_MIN_CONNECTIONS, _SPARE_CONNECTIONS + _CONNECTIONS_PER_WORKER * settings.workers)
    async with EmbeddedPostgres(settings.data_dir, max_connections=max_connections) as postgres:
        if reason := postgres.os_user.reason:
            log.info("embedded_postgres_user", uid=postgres.os_user.uid, reason=reason)
        yield postgres.url


@contextlib.asynccontextmanager
async def open_shared_database(settings: Settings) -> AsyncIterator[str]:
    """As `open_database`, and it also connects to an embedded database that a running server has opened."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            url = await stack.enter_async_context(open_database(settings))
        except DataFolderInUse:
            url = url_of_running(settings.data_dir)
        yield url


@contextlib.contextmanager
def _instance(settings: Settings, number: int) -> Iterator[tuple[InstanceId, list[InstanceId]]]:
    """Our id, and the ids of dead instances that an instance file in `DATA_DIR` names."""
    instance_id, predecessors = InstanceId(uuid4()), list[InstanceId]()
    with InstanceFile(settings.data_dir / f"instance-{number}") as file:
        try:
            settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            predecessors = file.claim(instance_id)
        except OSError as error:
            # Without a persistent disk, the lease decides when another instance counts as dead.
            log.info("no_instance_file", reason=str(error))
        yield instance_id, predecessors


def _report_failure(task: "asyncio.Task[None]") -> int:
    """The engine ended without a signal. Raises its `CannotStart`; a crash gives exit code 1, for a restart."""
    error = task.exception()
    if isinstance(error, CannotStart):
        raise error
    log.critical("engine_failed", exc_info=error)
    return 1


class StopSignals:
    """SIGTERM and SIGINT. The first signal asks for an orderly stop, the second for a quick one."""

    def __init__(self) -> None:
        self._first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sign, self._receive)

    def _receive(self) -> None:
        (self.second if self._first.is_set() else self._first).set()

    async def wait(self) -> None:
        await self._first.wait()


def require_safe_aiohttp() -> None:
    """Raise `CannotStart` without aiohttp's C parser or with `-O`.

    Most request-smuggling advisories for aiohttp concern only its pure-Python parser.
    """
    if aiohttp.http_parser.HttpRequestParser.__module__ != "aiohttp._http_parser":
        raise CannotStart("aiohttp has no C parser: install it from a binary wheel for this platform.")
    if sys.flags.optimize:
        raise CannotStart("Python runs with -O or PYTHONOPTIMIZE, under which aiohttp is unsafe: unset it.")
