"""The postmaster process: starts and stops it, and ends those of a killed server."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import structlog

from server.storage.embedded.os_user import OsUser

_POLL_S = 0.02
_STOP_STEPS = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
"""Signals and seconds to wait: fast shutdown (disconnects clients, writes a checkpoint), immediate shutdown, kill."""

_PROC = Path("/proc")
_PS_TIMEOUT_S = 5
_FIND = 'for process in /proc/[0-9]*; do [ "$process/cwd" -ef "$0" ] && echo "${process#/proc/}"; done'

log = structlog.get_logger(__name__)


def clean_environment() -> dict[str, str]:
    """An environment for Postgres without our secrets, and without PG* variables, which would change its behaviour."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


async def spawn(command: Sequence[str], log_file: Path) -> asyncio.subprocess.Process:
    """Start a postmaster in its own session, so that Ctrl-C does not stop it before our last writes."""
    with log_file.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=clean_environment(),
            cwd="/",  # every user can enter it
            start_new_session=True,
        )


async def stop(process: asyncio.subprocess.Process) -> None:
    """Stop a child postmaster, with growing force. Takes at most 20 s."""
    for sign, wait_s in _STOP_STEPS:
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(sign)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await process.wait()
    log.error("embedded_postgres_not_stopped", pid=process.pid)


async def stop_leftovers(data: Path, *, locks: Sequence[Path], os_user: OsUser) -> None:
    """Stop every Postgres process of this folder, and remove stale lock files. The caller holds the folder's lock.

    A postmaster survives a killed server. It is stopped, which takes a tenth of a second, so that Postgres always is
    our child and runs with our settings. Busy backends survive a killed postmaster, and Postgres refuses to start while
    they run. Stale lock files are removed because in a container their process id may soon belong to another process.
    """
    if not (found := processes_on(data, os_user)):
        _remove(locks)
        return
    postmaster = _pid_in_file(data)
    log.warning("embedded_postgres_left_behind", pid=postmaster, processes=len(found))
    for sign, wait_s in _STOP_STEPS:
        targets = [postmaster] if postmaster in found else found
        if sign is signal.SIGINT and postmaster not in found:
            continue  # a backend would only cancel its statement
        for pid in targets:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)
        for _ in range(int(wait_s / _POLL_S)):
            if not (found := processes_on(data, os_user)):
                _remove(locks)
                return
            await asyncio.sleep(_POLL_S)


def _remove(locks: Sequence[Path]) -> None:
    """Only with /proc, which has shown that the folder is unused. Otherwise Postgres checks its lock files itself."""
    if _PROC.joinpath("self").exists():
        for lock in locks:
            lock.unlink(missing_ok=True)


def _pid_in_file(data: Path) -> int | None:
    """The first line of postmaster.pid is the postmaster's process id."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int((data / "postmaster.pid").read_text("utf-8").splitlines()[0])
    return None


def processes_on(data: Path, os_user: OsUser) -> list[int]:
    """The Postgres processes whose current directory is this folder.

    Processes are also listed as the user of Postgres: in a container, root may not see another user's directories.
    """
    if not _PROC.joinpath("self").exists():
        pid = _pid_in_file(data)
        return [pid] if pid is not None and str(data) in _command_of(pid) else []
    others = "" if os_user.uid is None else _output_of([*os_user.prefix, "sh", "-c", _FIND, str(data)])
    seen = {int(line) for line in others.split()}
    running = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]
    return [pid for pid in running if _is_postgres(pid) and (pid in seen or _works_on(data, pid))]


def _is_postgres(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return (_PROC / str(pid) / "comm").read_text("utf-8").strip() == "postgres"
    return False


def _works_on(data: Path, pid: int) -> bool:
    with contextlib.suppress(OSError):  # it has ended, or belongs to another user
        return (_PROC / str(pid) / "cwd").samefile(data)
    return False


def _command_of(pid: int) -> str:
    """The command line of a process, without /proc (macOS)."""
    return _output_of(["ps", "-ww", "-o", "command=", "-p", str(pid)])


def _output_of(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PS_TIMEOUT_S)  # noqa: S603
    return done.stdout
