"""The phase of the process, from start to stop."""

import asyncio
from enum import StrEnum


class Phase(StrEnum):
    STARTING = "starting"
    """Sockets are open; the database is not ready yet."""
    READY = "ready"
    DRAINING = "draining"
    """No new work is accepted. Running generations may end, and waiting clients stay connected."""
    STOPPED = "stopped"


class Lifecycle:
    def __init__(self) -> None:
        self.phase = Phase.STARTING
        self.reason = "the database is being prepared"
        self._ready = asyncio.Event()

    @property
    def accepts_work(self) -> bool:
        return self.phase is Phase.READY

    def ready(self) -> None:
        if self.phase is Phase.STARTING:
            self.phase = Phase.READY
            self.reason = ""
            self._ready.set()

    def drain(self) -> None:
        self.phase = Phase.DRAINING
        self.reason = "the server is shutting down"

    def stop(self) -> None:
        self.phase = Phase.STOPPED

    async def wait_ready(self) -> None:
        await self._ready.wait()
