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
from server.storage.embedded.os_user import OsUser
from server.storage.embedded.process import clean_environment, stop

INITDB_TIMEOUT_S = 60.0

_SOCKET_NAME = ".s.PGSQL.5432"
_MAX_SOCKET_PATH = 103
"""sun_path has 108 bytes on Linux and 104 on macOS, including the final zero (unix(7), unix(4))."""

_MAX_LOG_BYTES = 4 * 1024 * 1024
_TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class ClusterFolder:
    """The paths of the cluster. `home` appears atomically: it is created under another name and then renamed."""

    home: Path

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def locks(self) -> tuple[Path, ...]:
        """The lock files that a killed Postgres leaves. Each contains a process id."""
        return self.data / "postmaster.pid", self.home / f"{_SOCKET_NAME}.lock"

    @property
    def log(self) -> Path:
        return self.home / "log"

    async def create(self, binaries: Binaries, os_user: OsUser) -> None:
        """Create the cluster unless it exists. The next start removes the remains of an interrupted one."""
        for draft in self.home.parent.glob("postgres.draft-*"):
            shutil.rmtree(draft, ignore_errors=True)  # an initdb of a killed server may still write there
        if self.home.exists():
            return
        draft = Path(tempfile.mkdtemp(prefix="postgres.draft-", dir=self.home.parent))
        try:
            _write_secret(draft / "password", secrets.token_urlsafe(24))
            os_user.chown_tree(draft)
            await self._initdb(binaries, os_user, draft)
            sync(draft)
            draft.rename(self.home)
            sync(self.home.parent)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise

    async def _initdb(self, binaries: Binaries, os_user: OsUser, draft: Path) -> None:
        process = await asyncio.create_subprocess_exec(
            *os_user.prefix,
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
        """The superuser's password, which is stored only in this file and, hashed, in the cluster."""
        try:
            return (self.home / "password").read_text("ascii").strip()
        except FileNotFoundError:
            raise EmbeddedPostgresError(
                f"{self.home} has no password file: restore the whole folder, or move it away to start afresh."
            ) from None

    def require_version(self, major: int) -> None:
        """Raise `EmbeddedPostgresError` for data of another major version, which Postgres cannot read."""
        try:
            found = (self.data / "PG_VERSION").read_text("ascii").strip()
        except FileNotFoundError:
            raise EmbeddedPostgresError(
                f"{self.data} is not a Postgres data folder: restore it, or move {self.home} away to start afresh."
            ) from None
        if found != str(major):
            raise EmbeddedPostgresError(
                f"{self.data} was written by Postgres {found}; this version uses Postgres {major}. To move the data, "
                f"run `python -m server backup FILE` with the previous version, move {self.home} away, and run "
                f"`restore FILE` with this one. Or set DATABASE_URL to a Postgres {found} with the data."
            )

    def choose_sockets(self, os_user: OsUser) -> Path:
        """The private folder, or a temporary one if its path is too long or looks like a list to Postgres."""
        path = str(self.home / _SOCKET_NAME)
        if len(os.fsencode(path)) <= _MAX_SOCKET_PATH and not set(path) & set(',"\\'):
            return self.home
        directory = Path(tempfile.mkdtemp(prefix="ai-sdk-server-"))
        os_user.chown(directory)
        return directory

    def prepare_log(self) -> int:
        """Create the log, or truncate a large one. Returns its size in bytes.

        One old part is kept, as a copy: a renamed file would still be the one that Postgres appends to.
        """
        self.log.touch(mode=0o600)
        if self.log.stat().st_size > _MAX_LOG_BYTES:
            shutil.copyfile(self.log, self.log.with_suffix(".old"))
            os.truncate(self.log, 0)
        return self.log.stat().st_size

    def log_since(self, offset: int) -> str:
        """The part of the log after `offset`, at most the last 4 KB."""
        with self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(offset, size - _TAIL_BYTES) if offset <= size else 0)
            return file.read(_TAIL_BYTES).decode("utf-8", "replace")

    def failure(self, what: str, code: int | None, output: str) -> EmbeddedPostgresError:
        """The error for a failed initdb or postgres, from its exit code and the end of its output."""
        data_dir = self.home.parent
        if "No space left on device" in output or is_full(data_dir):
            return EmbeddedPostgresError(disk_full(data_dir))
        if "Read-only file system" in output or ("Permission denied" in output and os.geteuid() != 0):
            return EmbeddedPostgresError(not_writable(data_dir))
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        reasons = [line for line in lines if any(word in line for word in _REASONS)] or lines
        reason = reasons[-1] if reasons else f"it ended with {_exit_text(code)} and no message. {OWN_DATABASE}"
        return EmbeddedPostgresError(f"The embedded Postgres {what} in {self.home}: {reason}")


def _exit_text(code: int | None) -> str:
    """An exit code for a person. A negative one is a signal, as in asyncio."""
    if code is None or code >= 0:
        return f"exit code {code}"
    memory = " (perhaps out of memory)" if code == -signal.SIGKILL else ""
    return f"{signal.Signals(-code).name}{memory}"


_REASONS = ("FATAL:", "PANIC:", "error:")


def _write_secret(path: Path, text: str) -> None:
    """Write a new file that only its owner can read, and sync it to the disk."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:  # noqa: PTH123 - a mode is needed
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
