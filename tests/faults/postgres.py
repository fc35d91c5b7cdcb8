"""A Postgres of one test's own, which can be stopped in every way and started again on the same data."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import asyncpg

from server.storage.embedded.binaries import Binaries
from server.storage.embedded.os_user import OsUser, choose_os_user
from server.storage.embedded.process import processes_on
from tests.prepared import prepare

FAST, IMMEDIATE, KILL = signal.SIGINT, signal.SIGQUIT, signal.SIGKILL
_TIMEOUT_S = 30.0
_POLL_S = 0.02

# It outlives nobody: the shell reads the pipe to this process, which closes however this process ends.
_KEEPER = '"$@" & read -r _; kill -QUIT $! 2>/dev/null; wait $!'


@dataclass(slots=True)
class OwnPostgres:
    """Durable as in production: what was committed is there after `KILL`."""

    folder: Path
    binaries: Binaries
    os_user: OsUser
    password: str = "shared-by-clusters"
    keeper: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.folder / ".s.PGSQL.5432"

    @property
    def url(self) -> str:
        return f"postgresql://postgres:{self.password}@/postgres?host={quote(str(self.folder))}&port=5432"

    @property
    def _pid_file(self) -> Path:
        return self.folder / "data" / "postmaster.pid"

    def create(self) -> None:
        self.os_user.chown(self.folder)
        prepare("own-postgres", self.folder / "data", self._initdb)

    def _initdb(self, data: Path) -> None:
        password_file = self.folder / "password"
        password_file.write_text(self.password)
        options = ("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions", "-U", "postgres")
        initdb = (self.binaries.path("initdb"), "-D", str(data), f"--pwfile={password_file}", *options)
        subprocess.run([*self.os_user.prefix, *initdb], check=True, stdout=subprocess.DEVNULL, timeout=_TIMEOUT_S)

    async def start(self) -> None:
        """Start it and wait until it lets somebody in."""
        settings = ("-c", "listen_addresses=", "-c", "shared_buffers=32MB", "-c", "max_connections=60")
        postgres = (self.binaries.path("postgres"), "-D", str(self.folder / "data"), "-k", str(self.folder), *settings)
        with (self.folder / "log").open("ab") as log:
            self.keeper = subprocess.Popen(  # noqa: ASYNC220 - it is started and not waited for
                ["/bin/sh", "-c", _KEEPER, "keeper", *self.os_user.prefix, *postgres],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        async with asyncio.timeout(_TIMEOUT_S):
            while not await self.answers():  # noqa: ASYNC110 - another process tells nobody
                await asyncio.sleep(_POLL_S)

    async def answers(self) -> bool:
        """Whether somebody who connects now gets an answer."""
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            connection = await asyncpg.connect(self.url, timeout=2)
            connection.terminate()
            return True
        return False

    async def stop(self, sign: signal.Signals = FAST) -> None:
        """End it with this signal, and wait until nothing of it is left."""
        os.kill(int(self._pid_file.read_text().split(maxsplit=1)[0]), sign)
        async with asyncio.timeout(_TIMEOUT_S):
            while self._is_in_use():  # noqa: ASYNC110 - another process tells nobody
                await asyncio.sleep(_POLL_S)
        assert self.keeper is not None
        assert self.keeper.stdin is not None
        self.keeper.stdin.close()  # only now: the keeper sends a signal of its own
        await asyncio.to_thread(self.keeper.wait, _TIMEOUT_S)
        self.keeper = None
        if sign is KILL:
            self._pid_file.unlink(missing_ok=True)

    def _is_in_use(self) -> bool:
        """Whether a backend lives on after its postmaster: Postgres would refuse to start beside it."""
        return bool(processes_on(self.folder / "data", self.os_user))


@contextlib.asynccontextmanager
async def own_postgres() -> AsyncIterator[OwnPostgres]:
    """Started, and gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    binaries = Binaries.find()
    postgres = OwnPostgres(folder, binaries, choose_os_user(folder, binaries))
    try:
        postgres.create()
        await postgres.start()
        yield postgres
    finally:
        if postgres.keeper is not None:
            await postgres.stop(IMMEDIATE)
        shutil.rmtree(folder, ignore_errors=True)
