"""`DATA_DIR`: creates and locks the folder, and explains why it cannot be used."""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from server.storage.embedded.binaries import EmbeddedPostgresError

_NEEDED_MB = 200
_MAX_PID_BYTES = 20


class DataFolderInUse(EmbeddedPostgresError):
    """Another server holds the lock of the folder."""


class DataFolder:
    """Holds the lock of the folder from `__init__` to `release`. The kernel releases it if the process dies."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        with explained(self.path):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                self._acquire()
            except BaseException:
                os.close(self._lock)
                raise

    def _acquire(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._lock, _MAX_PID_BYTES).decode("ascii", "replace").strip() or "just starting"
            raise DataFolderInUse(
                f"DATA_DIR={self.path} is in use by another server (process {holder}): "
                "stop that one, or give this one a DATA_DIR of its own."
            ) from None
        os.truncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Release the lock. The file stays: another process may have it open already."""
        os.close(self._lock)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError in this block into an `EmbeddedPostgresError` with the fix."""
    try:
        yield
    except OSError as error:
        raise EmbeddedPostgresError(_explain(error, path)) from error


def _explain(error: OSError, path: Path) -> str:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return disk_full(path)
        case errno.EROFS:
            return f"DATA_DIR={path} is on a read-only file system: set DATA_DIR to a folder that can be written."
        case errno.EACCES | errno.EPERM:
            return not_writable(path)
        case errno.ENOTDIR | errno.EEXIST:
            return f"DATA_DIR={path} is not a folder, or lies below a file: set DATA_DIR to a folder."
        case _:
            return f"DATA_DIR={path} cannot be used ({error.strerror}): set DATA_DIR to another folder."


def not_writable(path: Path) -> str:
    return (
        f"DATA_DIR={path} cannot be written by this user (uid {os.geteuid()}): "
        "change its owner, or set DATA_DIR to a folder of this user."
    )


def disk_full(path: Path) -> str:
    return f"The disk of DATA_DIR={path} is full: free {_NEEDED_MB} MB there, or set DATA_DIR to another disk."


def is_full(path: Path) -> bool:
    """Whether there is less room than a WAL segment of Postgres, 16 MB."""
    with contextlib.suppress(OSError):
        return shutil.disk_usage(path).free < 16 * 1024 * 1024
    return False
