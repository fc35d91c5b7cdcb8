"""Who ran here before: a locked file tells a successor on the same host that the last instance is dead."""

import fcntl
import os
from pathlib import Path
from typing import Self
from uuid import UUID

from server.model_request import InstanceId


class InstanceFile:
    """Holds this process's instance id under a lock for as long as the process lives, however it ends.

    Whoever gets the lock knows that the id found in the file belongs to a dead process, and need not wait for its lease
    to run out. Without a lasting disk there is no file, and the lease decides.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def take(self, instance_id: InstanceId) -> InstanceId | None:
        """Write our id; returns the dead predecessor's, if there was one. Raises `BlockingIOError` if it lives."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = _parse(os.read(descriptor, 64))
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(instance_id).encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _parse(content: bytes) -> InstanceId | None:
    try:
        return InstanceId(UUID(content.decode("ascii").strip()))
    except ValueError:
        return None
