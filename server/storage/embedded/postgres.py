"""The embedded Postgres in `DATA_DIR`: created, started, supervised and stopped here."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import asyncpg
import structlog

from server.storage.embedded.binaries import Binaries, EmbeddedPostgresError
from server.storage.embedded.cluster import ClusterFolder
from server.storage.embedded.data_folder import DataFolder, explained
from server.storage.embedded.os_user import OsUser, choose_os_user
from server.storage.embedded.process import spawn, stop, stop_leftovers
from server.storage.queries import statements

__all__ = ["Binaries", "EmbeddedPostgres", "EmbeddedPostgresError"]

START_TIMEOUT_S = 120.0
"""Includes recovery after a crash, which replays at most `max_wal_size`."""

_POLL_S = 0.02
_CONNECT_TIMEOUT_S = 5.0
_LOG_CHECK_S = 60.0
_RESTART_PAUSE_CAP_S = 10.0
_CALM_S = 60.0
"""A Postgres that ran this long before it died is restarted without a pause."""

_SETTINGS = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "max_logical_replication_workers": "0",
    "jit": "off",
    # A container's /dev/shm has 64 MB, and parallel workers put their hash tables there.
    "max_parallel_workers_per_gather": "0",
    "max_parallel_maintenance_workers": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    # Statements and details quote rows, which contain prompts: keep them out of the log.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}
_SETTINGS_SINCE = {18: {"io_method": "sync"}}
"""Avoids three worker processes of 2 MB for asynchronous reads."""

log = structlog.get_logger(__name__)


class EmbeddedPostgres:
    """One cluster in `data_dir`/postgres. Inside an `async with`, `url` connects to it.

    Every fault of the start is an `EmbeddedPostgresError` of one line. A postmaster that dies is always restarted, with
    the same `url`. Clients connect by a private unix socket, with a password from a file that only its owner can read.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        binaries: Binaries | None = None,
        max_connections: int = 40,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._data_dir = data_dir.absolute()
        self._cluster = ClusterFolder(self._data_dir / "postgres")
        self._sockets = self._cluster.home
        self._binaries = binaries
        self._max_connections = max_connections
        self._sleep = sleep
        self._password = ""
        self._command: list[str] = []
        self.os_user = OsUser()
        """The user of the running Postgres."""
        self._folder: DataFolder | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """The connection string, password included."""
        return self._url("ai_sdk_server")

    @property
    def pid(self) -> int | None:
        """The process id of the postmaster; None before the start."""
        return self._process.pid if self._process else None

    async def __aenter__(self) -> Self:
        self._folder = DataFolder(self._data_dir)
        try:
            await self._open(self._binaries or Binaries.find())
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        closing = asyncio.create_task(self._close(), name="embedded-postgres-close")
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await closing
            raise

    async def _open(self, binaries: Binaries) -> None:
        major = binaries.major_version()
        with explained(self._data_dir):
            self.os_user = choose_os_user(self._cluster.home, binaries)
            self.os_user.allow_traversal(self._data_dir)
            await self._cluster.create(binaries, self.os_user)
            self.os_user.chown_tree(self._cluster.home)
            self._password = self._cluster.read_password()
            self._cluster.require_version(major)
            self._sockets = self._cluster.choose_sockets(self.os_user)
        self._command = [
            *self.os_user.prefix,
            *(binaries.path("postgres"), "-D", str(self._cluster.data), "-k", str(self._sockets)),
            *(f"--{name}={value}" for name, value in _settings(major).items()),
            f"--max_connections={self._max_connections}",
        ]
        await stop_leftovers(self._cluster.data, locks=self._cluster.locks, os_user=self.os_user)
        process = await self._start()
        self._watch = asyncio.create_task(self._keep_running(process), name="embedded-postgres")

    async def _close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait({self._watch})
        if self._process is not None:
            await stop(self._process)
        if self._sockets != self._cluster.home:
            shutil.rmtree(self._sockets, ignore_errors=True)
        if self._folder is not None:
            self._folder.release()

    async def _start(self) -> asyncio.subprocess.Process:
        """Start the postmaster, and wait until it answers, after recovery."""
        with explained(self._data_dir):
            log_size = self._cluster.prepare_log()
            self._process = process = await spawn(self._command, self._cluster.log)
            self.os_user.chown(self._cluster.log)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while process.returncode is None:
                    if await self._answers():
                        return process
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            await stop(process)
            raise EmbeddedPostgresError(
                f"The embedded Postgres in {self._cluster.home} was not ready within {START_TIMEOUT_S:g} s: "
                f"read {self._cluster.log}."
            ) from None
        raise self._cluster.failure("does not start", process.returncode, self._cluster.log_since(log_size))

    async def _answers(self) -> bool:
        """Whether the database accepts connections. Creates it at the first start."""
        try:
            connection = await asyncpg.connect(self.url, timeout=_CONNECT_TIMEOUT_S)
        except asyncpg.InvalidCatalogNameError:
            await self._create_database()
            return True
        except asyncpg.InvalidPasswordError:
            raise EmbeddedPostgresError(
                f"{self._cluster.home / 'password'} is not the password of the database in that folder: "
                "restore the whole folder, or move it away to start afresh."
            ) from None
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            return False
        connection.terminate()
        return True

    async def _create_database(self) -> None:
        connection = await asyncpg.connect(self._url("postgres"), timeout=_CONNECT_TIMEOUT_S)
        try:
            await connection.execute(statements()["create_database"])
        finally:
            connection.terminate()

    async def _keep_running(self, process: asyncio.subprocess.Process) -> None:
        """Restart Postgres whenever it dies, with growing pauses after early deaths. Ends by cancellation."""
        clock, pause_s = asyncio.get_running_loop().time, 0.0
        while True:
            started = clock()
            code = await self._wait_exit(process)
            pause_s = 0.0 if clock() - started > _CALM_S else pause_s
            log.error("embedded_postgres_died", code=code, pause_s=pause_s)
            await self._sleep(pause_s)
            pause_s = min(_RESTART_PAUSE_CAP_S, 2 * pause_s or 0.5)
            try:
                await stop_leftovers(self._cluster.data, locks=self._cluster.locks, os_user=self.os_user)
                process = await self._start()
            except (EmbeddedPostgresError, OSError) as error:
                log.error("embedded_postgres_not_started", reason=str(error))  # noqa: TRY400 - the reason suffices
            else:
                log.info("embedded_postgres_restarted", pid=process.pid)

    async def _wait_exit(self, process: asyncio.subprocess.Process) -> int:
        """Wait for the postmaster's exit code, negative for a signal, and truncate its log from time to time."""
        while True:
            try:
                async with asyncio.timeout(_LOG_CHECK_S):
                    return await process.wait()
            except TimeoutError:
                self._cluster.prepare_log()

    def _url(self, database: str) -> str:
        return _connection_string(self._password, str(self._sockets), database)


def url_of_running(data_dir: Path) -> str:
    """The connection string of the embedded Postgres that another process runs in this folder.

    Raises `EmbeddedPostgresError` if none runs. The fifth line of postmaster.pid is the folder of its socket
    (src/include/utils/pidfile.h).
    """
    cluster = ClusterFolder(data_dir.absolute() / "postgres")
    try:
        sockets = (cluster.data / "postmaster.pid").read_text("utf-8").splitlines()[4]
    except (OSError, IndexError):
        raise EmbeddedPostgresError(f"The embedded Postgres in {cluster.home} is not running.") from None
    return _connection_string(cluster.read_password(), sockets, "ai_sdk_server")


def _connection_string(password: str, sockets: str, database: str) -> str:
    """With the port, which is part of the socket's name, because asyncpg would read PGPORT otherwise."""
    return f"postgresql://postgres:{password}@/{database}?host={quote(sockets, safe='')}&port=5432"


def _settings(major: int) -> dict[str, str]:
    """The settings that this major version knows."""
    newer = [settings for since, settings in _SETTINGS_SINCE.items() if major >= since]
    return _SETTINGS | {name: value for settings in newer for name, value in settings.items()}
