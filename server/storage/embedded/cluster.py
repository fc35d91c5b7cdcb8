"""The files of the embedded database: `DATA_DIR`/postgres with the cluster, its password, its socket and its log."""

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from server.storage.disk import sync
from server.storage.embedded.binaries import OWN_DATABASE, Binaries, EmbeddedPostgresError
from server.storage.embedded.data_folder import disk_full, is_full, not_writable
from server.storage.embedded.os_user import Account
from server.storage.embedded.process import clean_environment, stop

INITDB_TIMEOUT_S = 60.0

_SOCKET_NAME = ".s.PGSQL.5432"
_MAX_SOCKET_PATH = 103
"""sun_path has 108 bytes on Linux and 104 on macOS, with the zero at its end (unix(7), unix(4))."""

_MAX_LOG_BYTES = 4 * 1024 * 1024
_TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class ClusterFolder:
    """Where everything lies. `home` exists whole or not at all: it is made under another name and then renamed."""

    home: Path

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def locks(self) -> tuple[Path, ...]:
        """What Postgres leaves behind when it is killed, each with a process id in it."""
        return self.data / "postmaster.pid", self.home / f"{_SOCKET_NAME}.lock"

    @property
    def log(self) -> Path:
        return self.home / "log"

    async def create(self, binaries: Binaries, account: Account) -> None:
        """Make the cluster, unless it is there. What a kill in the middle leaves is removed by the next start."""
        for draft in self.home.parent.glob("postgres.draft-*"):
            shutil.rmtree(draft, ignore_errors=True)  # an initdb that outlived its server may still write there
        if self.home.exists():
            return
        draft = Path(tempfile.mkdtemp(prefix="postgres.draft-", dir=self.home.parent))
        try:
            _write_secret(draft / "password", secrets.token_urlsafe(24))
            account.own_tree(draft)
            await self._initdb(binaries, account, draft)
            sync(draft)
            draft.rename(self.home)
            sync(self.home.parent)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise

    async def _initdb(self, binaries: Binaries, account: Account, draft: Path) -> None:
        process = await asyncio.create_subprocess_exec(
            *account.prefix,
            binaries.path("initdb"),
            f"--pgdata={draft / 'data'}",
            "--username=postgres",
            f"--pwfile={draft / 'password'}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-instructions",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=clean_environment(),
            cwd="/",  # which every user can get to
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(INITDB_TIMEOUT_S):
                _, said = await process.communicate()
        except TimeoutError:
            raise EmbeddedPostgresError(
                f"The embedded Postgres could not be made in {self.home} within {INITDB_TIMEOUT_S:g} s: "
                "set DATA_DIR to a faster disk, or DATABASE_URL to a Postgres 15 or later."
            ) from None
        finally:
            await stop(process)
        if process.returncode != 0:
            raise self.failure("could not be made", process.returncode, said.decode("utf-8", "replace"))

    def read_password(self) -> str:
        """The superuser's password, which only this file and, hashed, the cluster itself hold."""
        try:
            return (self.home / "password").read_text("ascii").strip()
        except FileNotFoundError:
            raise EmbeddedPostgresError(
                f"{self.home} has no password file: restore the folder as a whole, or move it away to begin anew."
            ) from None

    def require_version(self, major: int) -> None:
        """Refuse data of another major version: Postgres reads only its own."""
        try:
            found = (self.data / "PG_VERSION").read_text("ascii").strip()
        except FileNotFoundError:
            raise EmbeddedPostgresError(
                f"{self.data} is not a Postgres data folder: restore it, or move {self.home} away to begin anew."
            ) from None
        if found != str(major):
            raise EmbeddedPostgresError(
                f"{self.data} was written by Postgres {found}, and this version brings Postgres {major}. To move it: "
                f"save it by `python -m server backup FILE` of the version before, move {self.home} away, and load it "
                f"by `restore FILE` of this one. Or set DATABASE_URL to a Postgres {found} that holds the data."
            )

    def choose_sockets(self, account: Account) -> Path:
        """The private folder itself, or a temporary one where its path is too long or would be taken for a list."""
        path = str(self.home / _SOCKET_NAME)
        if len(os.fsencode(path)) <= _MAX_SOCKET_PATH and not set(path) & set(',"\\'):
            return self.home
        directory = Path(tempfile.mkdtemp(prefix="ai-sdk-server-"))
        account.own(directory)
        return directory

    def prepare_log(self) -> int:
        """Create the log, or make it small again; its size in bytes.

        One old part is kept. It is copied and the log cut, not renamed: Postgres appends to the file that it has open.
        """
        self.log.touch(mode=0o600)
        if self.log.stat().st_size > _MAX_LOG_BYTES:
            shutil.copyfile(self.log, self.log.with_suffix(".old"))
            os.truncate(self.log, 0)
        return self.log.stat().st_size

    def log_since(self, offset: int) -> str:
        """What was appended to the log after `offset`, its last 4 KB at most."""
        with self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(offset, size - _TAIL_BYTES) if offset <= size else 0)
            return file.read(_TAIL_BYTES).decode("utf-8", "replace")

    def failure(self, what: str, code: int | None, said: str) -> EmbeddedPostgresError:
        """The error to raise, out of the exit code of initdb or postgres and what it said at its end."""
        data_dir = self.home.parent
        if "No space left on device" in said or is_full(data_dir):
            return EmbeddedPostgresError(disk_full(data_dir))
        if "Read-only file system" in said or ("Permission denied" in said and os.geteuid() != 0):
            return EmbeddedPostgresError(not_writable(data_dir))
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        reasons = [line for line in lines if any(word in line for word in _REASONS)] or lines
        reason = reasons[-1] if reasons else f"it said nothing and ended with {_ending(code)}. {OWN_DATABASE}"
        return EmbeddedPostgresError(f"The embedded Postgres {what} in {self.home}: {reason}")


def _ending(code: int | None) -> str:
    """An exit code as a person reads it; negative for a signal, as in asyncio."""
    if code is None or code >= 0:
        return f"exit code {code}"
    memory = ", as when the memory is full" if code == -signal.SIGKILL else ""
    return f"{signal.Signals(-code).name}{memory}"


_REASONS = ("FATAL:", "PANIC:", "error:")


def _write_secret(path: Path, text: str) -> None:
    """A new file for its owner alone, on the disk when this returns."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:  # noqa: PTH123 - a mode is needed
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
