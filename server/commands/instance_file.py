"""Who ran here before: a locked file tells a successor on the same host that the last instance is dead."""

import fcntl
import os
from pathlib import Path
from typing import Self
from uuid import UUID

from server.model_request import InstanceId

KEPT = 16
"""One that dies while it starts has not yet taken up what the one before left: its successor must know both."""
_MAX_BYTES = 1024


class InstanceFile:
    """Holds this process's instance id under a lock for as long as the process lives, however it ends.

    Whoever gets the lock knows that the ids found in the file belong to dead processes, and need not wait for their
    leases to run out. Without a lasting disk there is no file, and the lease decides.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def take(self, instance_id: InstanceId) -> list[InstanceId]:
        """Write our id; returns those of the dead, the last one first. Raises `BlockingIOError` if that one lives."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = _parse(os.read(descriptor, _MAX_BYTES))[:KEPT]
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
