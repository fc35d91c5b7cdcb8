"""A locked file with the instance id: the next process on this host learns from it which instances are dead."""

import fcntl
import os
from pathlib import Path
from typing import Self
from uuid import UUID

from server.model_request import InstanceId

MAX_DEAD_IDS = 16
"""More than one, because an instance that dies during its start has not reclaimed the work of the one before it."""
_MAX_BYTES = 1024


class InstanceFile:
    """Holds this process's instance id under a lock until the process ends, in whatever way.

    The process that gets the lock knows that the ids in the file belong to dead processes, and need not wait for their
    leases to expire. Without a persistent disk there is no file, and the lease decides.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def claim(self, instance_id: InstanceId) -> list[InstanceId]:
        """Write our id. Returns the ids of dead instances, newest first. Raises `BlockingIOError` if one still runs."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = _parse(os.read(descriptor, _MAX_BYTES))[:MAX_DEAD_IDS]
            content = "\n".join(map(str, [instance_id, *found])).encode()
            os.pwrite(descriptor, content, 0)
            os.ftruncate(descriptor, len(content))
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


def _parse(content: bytes) -> list[InstanceId]:
    try:
        return [InstanceId(UUID(line)) for line in content.decode("ascii").split()]
    except ValueError:
        return []
