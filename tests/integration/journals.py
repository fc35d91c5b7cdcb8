"""A journal on a real database with a wire in between, and rows to hand to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg

from server.actors.heartbeat import Lease
from server.actors.journal import Journal
from server.actors.writes import NewRequest, ReleasedRow
from server.model_request import FinalRow, InstanceId, RequestId, Status, UserId, mint_id
from server.storage.database import DedicatedConnection
from tests.fakes.wire import Wire
from tests.rows import Row, add_row, add_user, connected, read_row

ME = InstanceId(uuid4())


@dataclass(frozen=True, slots=True)
class Desk:
    """What a test of the journal works with; `connection` looks at the database past the wire."""

    journal: Journal
    wire: Wire
    connection: "asyncpg.Connection[Any]"
    user_id: UserId

    def new(self, **changes: Any) -> NewRequest:
        """A row to accept."""
        row = NewRequest(
            id=mint_id(),
            user_id=self.user_id,
            model_type="text2text",
            model=None,
            input_data=b'{"prompt": "hello"}',
            parameters=b"{}",
            owner=ME,
            deadline_s=600.0,
        )
        return replace(row, **changes)

    async def running(self) -> RequestId:
        """A row that this instance runs under epoch 1."""
        return await add_row(self.connection, self.user_id, Row("processing", owner=ME, epoch=1, attempt=1))

    async def count(self) -> int:
        count: int = await self.connection.fetchval("SELECT count(*) FROM model_requests")
        return count

    async def status(self, request_id: RequestId) -> str:
        status: str = (await read_row(self.connection, request_id))["status"]
        return status


def final(request_id: RequestId, **changes: Any) -> FinalRow:
    """An outcome of a row that this instance runs under epoch 1."""
    row = FinalRow(
        id=request_id,
        owner=ME,
        epoch=1,
        status=Status.COMPLETED,
        output_data=b'{"output": "answer"}',
        error_code=None,
        error_msg=None,
        token_used=3,
        token_count=2,
        processing_time=timedelta(seconds=1),
        model="org/model",
    )
    return replace(row, **changes)


def released(request_id: RequestId) -> ReleasedRow:
    return ReleasedRow(request_id, ME, epoch=1, delay_s=0.0, error_code=None, error_msg=None)


@asynccontextmanager
async def open_desk(url: str) -> AsyncIterator[Desk]:
    """A journal that nobody runs yet."""
    wire = Wire(url)
    async with connected(url) as connection:
        journal = Journal(DedicatedConnection(wire.connect), lease=Lease(ME))
        await journal.check()  # as before readiness
        wire.sent.clear()
        yield Desk(journal, wire, connection, await add_user(connection))
        wire.release_waiting()


@asynccontextmanager
async def run_journal(journal: Journal) -> AsyncIterator["asyncio.Task[None]"]:
    """Run it as the supervisor does, and cancel it in the end."""
    task = asyncio.create_task(journal.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def settle(*tasks: "asyncio.Task[Any]") -> None:
    """Let new tasks run up to where they wait for somebody else."""
    assert tasks
    await asyncio.sleep(0)
