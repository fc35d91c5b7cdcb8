"""Folders that many tests begin with: made once in a test run, copied for each test.

Initdb takes more processor time than all that most tests do.
"""

import fcntl
import subprocess
from collections.abc import Callable
from pathlib import Path

_run_folder: list[Path] = []


def share(folder: Path) -> None:
    """Name the folder that all workers of the test run have in common."""
    _run_folder[:] = [folder]


def prepare(name: str, target: Path, make: Callable[[Path], None]) -> None:
    """Put a copy of what `make` makes at `target`. The first caller in the test run makes it; others wait for that."""
    if not _run_folder:  # outside pytest
        make(target)
        return
    prepared = _run_folder[0] / "prepared" / name
    prepared.parent.mkdir(exist_ok=True)
    with prepared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not prepared.exists():
            make(target)
            draft = prepared.with_suffix(".draft")
            _copy(target, draft)
            draft.rename(prepared)
            return
    _copy(prepared, target)


def _copy(source: Path, target: Path) -> None:
    """With the owners of the files: under root, a database may belong to another user."""
    subprocess.run(["cp", "-a", source, target], check=True, timeout=60)
