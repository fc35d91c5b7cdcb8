"""Deletes unused files: the object first, then its row, so that no object stays without a row."""

import asyncio
import random
from collections.abc import Sequence
from uuid import UUID

import asyncpg
import structlog

from server.actors.heartbeat import Lease
from server.errors import Problem
from server.files.audit import Audit
from server.files.statements import Statements
from server.model_request import InstanceId
from server.storage.database import DedicatedConnection
from server.storage.objects import Objects, key_of

INTERVAL_S = 10.0
CLAIM_S = 60.0
"""After this, another instance may delete the batch."""
RECHECK_S = 15.0
"""A file that was not deleted is checked again after this."""
_DELETE_TIMEOUT_S = 50.0
"""Less than `CLAIM_S`, so that two instances never work on the same batch."""
MAX_BATCH = 100

log = structlog.get_logger(__name__)


class FileCollector:
    """Runs in every instance: rows are claimed with SKIP LOCKED, and become due again if they are not deleted.

    `arriving` contains the uploads that this process is receiving.
    """

    def __init__(self, connection: DedicatedConnection, *, objects: Objects, lease: Lease) -> None:
        self._statements = Statements(connection)
        self._objects = objects
        self._lease = lease
        self._audit = Audit(self._statements, objects)
        self._batch = MAX_BATCH
        self._known_dead: list[InstanceId] = []
        self._wakeup = asyncio.Event()
        self.arriving: set[UUID] = set()

    def add_dead_instance(self, instance_id: InstanceId) -> None:
        """Delete the unfinished uploads of a dead instance without waiting for its lease to expire."""
        self._known_dead.append(instance_id)

    def wake(self) -> None:
        """Run a tick now."""
        self._wakeup.set()

    async def run(self) -> None:
        while True:
            self._wakeup.clear()
            try:
                await self.tick()
                await self._audit.run_if_due()
            except (Problem, TimeoutError) as error:
                log.debug("file_collection_postponed", reason=str(error))
            try:
                async with asyncio.timeout(INTERVAL_S * random.uniform(0.8, 1.2)):  # noqa: S311
                    await self._wakeup.wait()
            except TimeoutError:
                pass

    async def tick(self) -> None:
        """Check the due files, and delete unused ones. Raises a `Problem` without database or store."""
        while True:
            batch = self._batch
            rows = await self._statements.fetch(
                "claim_due_files",
                batch,
                CLAIM_S,
                [self._lease.instance_id, *self._known_dead],
                list(self.arriving),
                self._lease.may_judge_others,
                RECHECK_S,
            )
            await self._delete([row for row in rows if row["state"] == "deleting"])
            if len(rows) < batch:
                return

    async def _delete(self, rows: Sequence[asyncpg.Record]) -> None:
        """Delete objects and rows. After a failure the batches are smaller, so that one file cannot block others."""
        if not rows:
            return
        try:
            async with asyncio.timeout(_DELETE_TIMEOUT_S):
                await self._objects.delete([key_of(row["user_id"], row["id"], row["content_type"]) for row in rows])
        except (Problem, TimeoutError):
            self._batch = max(1, self._batch // 8)
            raise
        self._batch = min(MAX_BATCH, self._batch * 2)
        await self._statements.fetch("delete_files", [row["id"] for row in rows])
        log.info("files_deleted", count=len(rows))
