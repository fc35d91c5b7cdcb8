"""Deletes files that nobody wants any more: the object first, then its row, so that neither stays without the other."""

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
TAKEN_FOR_S = 60.0
"""A batch that was not deleted by then is anybody's again."""
LOOK_AGAIN_S = 15.0
"""At what was left as it was."""
_DELETE_TIMEOUT_S = 50.0
"""Less than that, so that no two instances work on the same batch."""
MAX_BATCH = 100

log = structlog.get_logger(__name__)


class FileCollector:
    """Any instance can do it: rows are taken with SKIP LOCKED, and what one leaves behind is due again soon.

    `arriving` are the uploads that this process is receiving now.
    """

    def __init__(self, connection: DedicatedConnection, *, objects: Objects, lease: Lease) -> None:
        self._statements = Statements(connection)
        self._objects = objects
        self._lease = lease
        self._audit = Audit(self._statements, objects)
        self._batch = MAX_BATCH
        self._known_dead: list[InstanceId] = []
        self._news = asyncio.Event()
        self.arriving: set[UUID] = set()

    def expect_orphans_of(self, instance_id: InstanceId) -> None:
        """This instance is known to be dead: what was arriving there need not wait for its lease to run out."""
        self._known_dead.append(instance_id)

    def wake(self) -> None:
        """Something is to be deleted: look at once."""
        self._news.set()

    async def run(self) -> None:
        while True:
            self._news.clear()
            try:
                await self.tick()
                await self._audit.run_if_due()
            except (Problem, TimeoutError) as error:
                log.debug("reaping_put_off", reason=str(error))
            try:
                async with asyncio.timeout(INTERVAL_S * random.uniform(0.8, 1.2)):  # noqa: S311
                    await self._news.wait()
            except TimeoutError:
                pass

    async def tick(self) -> None:
        """Decide about what is due, and delete what is to go. Raises a `Problem` while database or store are away."""
        while True:
            batch = self._batch
            rows = await self._statements.fetch(
                "judge_files",
                batch,
                TAKEN_FOR_S,
                [self._lease.instance_id, *self._known_dead],
                list(self.arriving),
                self._lease.may_judge_others,
                LOOK_AGAIN_S,
            )
            await self._delete([row for row in rows if row["state"] == "deleting"])
            if len(rows) < batch:
                return

    async def _delete(self, rows: Sequence[asyncpg.Record]) -> None:
        """One that cannot be deleted must not keep the others: after a failure the batches are small for a while."""
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
