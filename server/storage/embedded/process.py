"""One postmaster as a process: those that a killed server left behind, starting ours, and stopping it."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import structlog

from server.storage.embedded.os_user import Account

_POLL_S = 0.02
_PATIENCE_S = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
"""Fast shutdown (clients are disconnected, a checkpoint is written), immediate shutdown, and the last resort."""

_PROC = Path("/proc")
_PS_TIMEOUT_S = 5
_FIND = 'for process in /proc/[0-9]*; do [ "$process/cwd" -ef "$0" ] && echo "${process#/proc/}"; done'

log = structlog.get_logger(__name__)


def clean_environment() -> dict[str, str]:
    """What Postgres needs of our environment: no secret of ours, none of the PG* variables that would steer it."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


async def spawn(command: Sequence[str], log_file: Path) -> asyncio.subprocess.Process:
    """Start a postmaster in a session of its own: Ctrl-C must not reach it before our last writes did."""
    with log_file.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=clean_environment(),
            cwd="/",  # which every user can get to
            start_new_session=True,
        )


async def stop(process: asyncio.subprocess.Process) -> None:
    """End a postmaster of ours, gently if it lets us. Takes 20 s at most."""
    for sign, patience_s in _PATIENCE_S:
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(sign)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await process.wait()
    log.error("embedded_postgres_not_stopped", pid=process.pid)


async def stop_leftovers(data: Path, *, locks: Sequence[Path], account: Account) -> None:
    """End every process that still works on this folder, which is ours alone, and remove the lock files of the dead.

    A postmaster outlives a server that was killed. It is stopped rather than adopted: that costs a tenth of a second,
    and then there is one case only, in which Postgres is our child and runs with our settings. Backends outlive a
    postmaster that was killed as long as they are busy, and Postgres refuses to start beside them. The lock files go
    because in a container their number soon belongs to another process, for which Postgres would refuse as well.
    """
    if not (found := processes_on(data, account)):
        _remove(locks)
        return
    postmaster = _pid_in_file(data)
    log.warning("embedded_postgres_left_behind", pid=postmaster, processes=len(found))
    for sign, patience_s in _PATIENCE_S:
        targets = [postmaster] if postmaster in found else found
        if sign is signal.SIGINT and postmaster not in found:
            continue  # to a backend it means only: cancel the statement
        for pid in targets:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)
        for _ in range(int(patience_s / _POLL_S)):
            if not (found := processes_on(data, account)):
                _remove(locks)
                return
            await asyncio.sleep(_POLL_S)


def _remove(locks: Sequence[Path]) -> None:
    """Only where /proc has shown that nobody works on the folder; elsewhere Postgres judges its own lock files."""
    if _PROC.joinpath("self").exists():
        for lock in locks:
            lock.unlink(missing_ok=True)


def _pid_in_file(data: Path) -> int | None:
    """The first line of postmaster.pid is the postmaster's process id."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int((data / "postmaster.pid").read_text("utf-8").splitlines()[0])
    return None


def processes_on(data: Path, account: Account) -> list[int]:
    """Postgres processes of this folder: all of them work in it, as their current directory.

    The account of Postgres is asked as well: in a container root may not see where another user's processes work.
    """
    if not _PROC.joinpath("self").exists():
        pid = _pid_in_file(data)
        return [pid] if pid is not None and str(data) in _command_of(pid) else []
    others = "" if account.uid is None else _output_of([*account.prefix, "sh", "-c", _FIND, str(data)])
    seen = {int(line) for line in others.split()}
    running = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]
    return [pid for pid in running if _is_postgres(pid) and (pid in seen or _works_on(data, pid))]


def _is_postgres(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return (_PROC / str(pid) / "comm").read_text("utf-8").strip() == "postgres"
    return False


def _works_on(data: Path, pid: int) -> bool:
    with contextlib.suppress(OSError):  # it is gone, or another user's
        return (_PROC / str(pid) / "cwd").samefile(data)
    return False


def _command_of(pid: int) -> str:
    """The command line where there is no /proc (macOS)."""
    return _output_of(["ps", "-ww", "-o", "command=", "-p", str(pid)])


def _output_of(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PS_TIMEOUT_S)  # noqa: S603
    return done.stdout
