"""Files on a real database and in a folder, with what decides about them, for tests of their parts."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from server.actors.heartbeat import Lease
from server.encoding import dumps
from server.files.collector import FileCollector
from server.files.input_files import InputFiles
from server.files.request_files import StoredFiles
from server.files.uploads import Uploads
from server.model_request import InstanceId, ModelRequest, RequestId, UserId
from server.storage.database import Database, DedicatedConnection
from server.storage.objects import Objects, key_of
from server.storage.objects.locations import LocalFolder
from server.storage.reader import PooledQueries
from tests.fakes.media import PNG
from tests.fakes.wire import Wire
from tests.rows import Row, add_instance, add_row, add_user, connected

_STATES = "SELECT id, state FROM public.files"
_ALL_DUE = "UPDATE public.files SET due_at = due_at - interval '25 hours'"
_AGED = "UPDATE public.file_uses SET created_at = now() - interval '16 min'"


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def judging_lease(instance_id: InstanceId) -> Lease:
    """One that was held for so long that its holder may judge others."""
    lease = Lease(instance_id)
    lease.renewed(time.monotonic())
    lease.held_since = float("-inf")
    return lease


@dataclass(slots=True)
class Desk:
    """One instance's parts that handle files; `user` is somebody to own them."""

    connection: "asyncpg.Connection[Any]"
    wire: Wire
    line: DedicatedConnection
    folder: Path
    user: UserId
    lease: Lease
    objects: Objects
    collector: FileCollector
    uploads: Uploads
    inputs: InputFiles
    files: StoredFiles
    wakes: list[None] = field(default_factory=list)

    async def upload(self, data: bytes = PNG, *, user: UserId | None = None) -> UUID:
        taken = await self.uploads.take(user or self.user, stream(data), declared_type="", size=len(data))
        return taken.id

    async def use(self, file_id: UUID, status: str = "pending", **columns: Any) -> RequestId:
        """A request that uses this file."""
        request_id = await add_row(self.connection, self.user, Row(status, **columns))
        assert await self.inputs.attach(self.user, request_id, image(file_id))
        return request_id

    async def running(self, *, epoch: int = 1) -> ModelRequest:
        """A request that this instance runs."""
        row = Row("processing", owner=self.lease.instance_id, epoch=epoch)
        return run_of(await add_row(self.connection, self.user, row), self.user, self.lease.instance_id, epoch)

    async def states(self) -> dict[UUID, str]:
        return {row["id"]: row["state"] for row in await self.connection.fetch(_STATES)}

    def kept(self) -> set[str]:
        """The keys of what is in the folder, whatever it is."""
        paths = (path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)) for path in paths}

    async def reap(self, *, later: bool = True) -> None:
        """One look at everything that is due; `later`: so late that everything is, and no use is young."""
        if later:
            await self.connection.execute(_ALL_DUE)
            await self.connection.execute(_AGED)
        await self.collector.tick()

    def key(self, file_id: UUID, content_type: str = "image/png") -> str:
        return key_of(self.user, file_id, content_type)


def image(*file_ids: UUID) -> bytes:
    """Input data that refers to these files."""
    return dumps({"images": [{"image": f"file:{file_id}"} for file_id in file_ids]})


def run_of(
    request_id: RequestId, user_id: UserId, owner: InstanceId, epoch: int, input_data: bytes = b'{"prompt": "hello"}'
) -> ModelRequest:
    now = datetime.now(UTC)
    return ModelRequest(
        id=request_id,
        user_id=user_id,
        model_type="text-to-image",
        model=None,
        input_data=input_data,
        parameters=b"{}",
        owner=owner,
        epoch=epoch,
        attempt=1,
        created_at=now,
        deadline_at=now + timedelta(minutes=10),
        deadline_left_s=600.0,
    )


@asynccontextmanager
async def open_desk(url: str, folder: Path, *, quota_bytes: int | None = None) -> AsyncIterator[Desk]:
    wire, objects = Wire(url), Objects(LocalFolder(folder))
    reader, line = PooledQueries(Database(url)), DedicatedConnection(wire.connect)
    await reader.open()
    try:
        async with connected(url) as connection:
            lease = judging_lease(await add_instance(connection))
            collector = FileCollector(line, objects=objects, lease=lease)
            uploads = Uploads(
                reader,
                objects,
                collector=collector,
                lease=lease,
                max_bytes=64 * 1024 * 1024,
                quota_bytes=quota_bytes,
                held_bytes=1,
            )
            yield Desk(
                connection=connection,
                wire=wire,
                line=line,
                folder=folder,
                user=await add_user(connection),
                lease=lease,
                objects=objects,
                collector=collector,
                uploads=uploads,
                inputs=InputFiles(reader),
                files=StoredFiles(line, objects, wake=collector.wake),
            )
    finally:
        line.terminate()
        await objects.close()
        await reader.close()
