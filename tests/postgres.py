"""Postgres for tests: one cluster per version and test session, a fresh database per test.

It does not use `EmbeddedPostgres`, which has tests of its own, and it outlives nobody: a small shell holds the other
end of a pipe to this process and kills the cluster when that closes, however this process ends.
"""

import asyncio
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import asyncpg

from server.storage.database import Database
from server.storage.embedded.binaries import Binaries
from server.storage.embedded.os_user import choose_os_user
from server.storage.migrations import load_migrations, migrate
from tests.prepared import prepare

_TIMEOUT_S = 60
_ROOM_BYTES = 2 * 1024**3

# The cluster, a keeper that reads the pipe, and what to remove in the end. SIGQUIT: nothing here is worth a checkpoint.
_KEEPER = 'folder=$1; shift; "$@" & read -r _; kill -QUIT $!; wait $!; rm -rf "$folder"'

# Speed before safety: the data of a test lives as long as the test.
_SETTINGS = (
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "listen_addresses=",
    "port=5432",
    "shared_buffers=32MB",
    "max_connections=100",
    "jit=off",
    "autovacuum=off",
    "timezone=UTC",
)

_T = TypeVar("_T")


def run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end from a plain function, whether or not this thread has an event loop already."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running Postgres of this test session."""

    folder: Path
    password: str = "shared-by-clusters"
    superuser: str = "postgres"

    def url(self, database: str = "postgres", *, role: str | None = None) -> str:
        """For the superuser, or for another role that has the same password."""
        user = role or self.superuser
        return f"postgresql://{user}:{self.password}@/{database}?host={quote(str(self.folder))}&port=5432"

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Run statements as the superuser, each on its own."""
        run(self._execute(statements, database))

    async def _execute(self, statements: tuple[str, ...], database: str) -> None:
        connection = await asyncpg.connect(self.url(database))
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    @contextmanager
    def database(self, template: str = "template1", *, owner: str | None = None) -> Iterator[str]:
        """The URL of a database made for this block and its owner, dropped in the end whoever is still connected."""
        name, role = f"test_{secrets.token_hex(6)}", owner or self.superuser
        self.execute(f"CREATE DATABASE {name} OWNER {role} TEMPLATE {template} STRATEGY FILE_COPY")
        try:
            yield self.url(name, role=role)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def create_template(self) -> str:
        """A database with all migrations of this program, to make others from."""
        self.execute("CREATE DATABASE migrated STRATEGY FILE_COPY")
        run(bring_forward(self.url("migrated")))
        return "migrated"


async def bring_forward(url: str) -> list[str]:
    """Apply every migration of this program that is missing, as a server does at its start; their names."""
    database = Database(url)
    connection = await database.connect()
    try:
        applied = await migrate(connection, load_migrations(), connect=database.connect)
    finally:
        connection.terminate()
    return [migration.name for migration in applied]


@contextmanager
def running_cluster(binaries: Binaries, *, superuser: str = "postgres") -> Iterator[Cluster]:
    """Make a cluster in a private temporary folder (short: a socket's path has 107 bytes at most), and end it."""
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir=_memory_disk()))
    data = folder / "data"
    os_user = choose_os_user(data, binaries)
    os_user.chown(folder)
    major = binaries.major_version()
    cluster = Cluster(folder, superuser=superuser)

    def initdb(data: Path) -> None:
        password_file = folder / "password"
        password_file.write_text(cluster.password)
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        if major >= 16:  # which knows the setting: connecting costs both sides half as much
            options.append("--set=scram_iterations=1")
        command = (binaries.path("initdb"), "-D", str(data), "-U", superuser, f"--pwfile={password_file}")
        subprocess.run([*os_user.prefix, *command, *options], check=True, stdout=subprocess.DEVNULL, timeout=_TIMEOUT_S)

    try:
        prepare(f"{superuser}-{major}", data, initdb)
    except BaseException:
        shutil.rmtree(folder)
        raise
    settings = [part for setting in _SETTINGS for part in ("-c", setting)]
    postgres = (binaries.path("postgres"), "-D", str(data), "-k", str(folder), *settings)
    with (folder / "log").open("wb") as log:
        keeper = subprocess.Popen(
            ["/bin/sh", "-c", _KEEPER, "keeper", str(folder), *os_user.prefix, *postgres],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
    try:
        _await_ready(folder, keeper)
        yield cluster
    finally:
        keeper.communicate(timeout=_TIMEOUT_S)


def _memory_disk() -> Path | None:
    """Where there is room in memory, a database is made in 0.02 s, against 0.3 s on a busy disk."""
    memory = Path("/dev/shm")  # noqa: S108 - only a private folder is made in it
    has_room = memory.is_dir() and shutil.disk_usage(memory).free > _ROOM_BYTES
    return memory if has_room else None


def _await_ready(folder: Path, keeper: subprocess.Popen[bytes]) -> None:
    """Until the last line of postmaster.pid says `ready`; polled, because Postgres tells nobody."""
    status = folder / "data" / "postmaster.pid"
    deadline = time.monotonic() + _TIMEOUT_S
    while not (status.exists() and status.read_text().rstrip().endswith("ready")):
        if keeper.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"Postgres did not start: {(folder / 'log').read_text()}")
        time.sleep(0.01)
