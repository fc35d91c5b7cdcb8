"""A sweeper on a real database, with what it shares with the other actors of its instance."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from server.actors.capacity import Backlog, Slots
from server.actors.heartbeat import Lease
from server.actors.quarantine import QUARANTINE_ATTEMPTS
from server.actors.sweeper import Sweeper
from server.actors.workload import Workload
from server.model_request import ModelRequest, RequestId, UserId
from server.storage.database import DedicatedConnection
from tests.fakes.wire import Wire
from tests.rows import Row, add_row, add_users, connected, read_row

CAPACITY = 4
SUSPECT = Row(attempt=QUARANTINE_ATTEMPTS, epoch=QUARANTINE_ATTEMPTS)


@dataclass(frozen=True, slots=True)
class Instance:
    """A sweeper and what it shares with the other actors of its instance, of which none runs."""

    sweeper: Sweeper
    wire: Wire
    connection: "asyncpg.Connection[Any]"
    users: list[UserId]
    queue: "asyncio.Queue[ModelRequest]"
    lease: Lease
    slots: Slots
    backlog: Backlog
    workload: Workload

    async def add(self, row: Row | None = None, *, user: int = 0) -> RequestId:
        return await add_row(self.connection, self.users[user], row)

    async def read(self, request_id: RequestId) -> asyncpg.Record:
        return await read_row(self.connection, request_id)

    async def status(self, request_id: RequestId) -> str:
        return str((await self.read(request_id))["status"])

    def take(self) -> list[ModelRequest]:
        """What generators would find in the queue."""
        return [self.queue.get_nowait() for _ in range(self.queue.qsize())]

    def finish(self, model_request: ModelRequest) -> None:
        """What a generator does in the end."""
        running = self.workload.get(model_request.id)
        assert running is not None
        self.workload.remove(running)
        self.slots.release()


@asynccontextmanager
async def open_instance(url: str) -> AsyncIterator[Instance]:
    """An instance with a lease that it got just now, and three users."""
    wire, queue, lease = Wire(url), asyncio.Queue[ModelRequest](CAPACITY), Lease()
    slots, backlog, workload = Slots(CAPACITY), Backlog(), Workload()
    lease.renewed(time.monotonic())
    line = DedicatedConnection(wire.connect)
    sweeper = Sweeper(line, queue=queue, lease=lease, slots=slots, backlog=backlog, workload=workload)
    async with connected(url) as connection:
        users = await add_users(connection, 3)
        yield Instance(sweeper, wire, connection, users, queue, lease, slots, backlog, workload)
    line.terminate()
