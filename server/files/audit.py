"""The daily audit: deletes objects without a row, and rechecks files that no request uses."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import structlog

from server.files.statements import Statements
from server.storage.objects import Objects, StoredObject, file_id_of, key_of

INTERVAL_S = 24 * 3600.0
MIN_AGE = timedelta(days=1)
"""A younger object may belong to a row that does not exist yet, as in a running import."""
_PAGE = 500
_MAX_DELETED = 1000
"""In one audit."""
_MAX_ORPHAN_SHARE = 0.1
_MAX_ORPHANS = 20
"""Beyond both limits, the store probably belongs to another database, and nothing is deleted."""

log = structlog.get_logger(__name__)


class Audit:
    """Cleans up after crashes: objects that were stored after their row was deleted, and partial uploads.

    The first audit runs at a random time within an hour of the start, so that instances do not run it together.
    """

    def __init__(
        self, statements: Statements, objects: Objects, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._statements = statements
        self._objects = objects
        self._clock = clock
        self._due_at = clock() + random.uniform(0.1, 1) * 3600  # noqa: S311

    async def run_if_due(self) -> None:
        """Raises a `Problem` while the database or the store is unavailable, and then runs again in an hour."""
        if self._clock() < self._due_at:
            return
        self._due_at = self._clock() + 3600
        await self.run()
        self._due_at = self._clock() + INTERVAL_S * random.uniform(0.9, 1.1)  # noqa: S311

    async def run(self) -> None:
        """Audit all files. Deletes nothing beyond the orphan limits."""
        rechecked = await self._statements.fetch("recheck_files", _MAX_DELETED)
        await self._objects.remove_leftovers(older_than=datetime.now(UTC) - MIN_AGE)
        count, orphans = 0, list[StoredObject]()
        async for page in self._pages():
            count += len(page)
            if len(orphans) < _MAX_DELETED:
                orphans += await self._without_row(page)
        if len(orphans) > max(_MAX_ORPHANS, count * _MAX_ORPHAN_SHARE):
            log.error(
                "files_without_rows",
                count=len(orphans),
                of=count,
                fix="Nothing was deleted. If another database uses this bucket or folder, give each its own.",
            )
            return
        await self._objects.delete([found.key for found in orphans])
        log.info("files_audited", count=count, orphans=len(orphans), rechecked=len(rechecked))

    async def _pages(self) -> AsyncIterator[list[StoredObject]]:
        page: list[StoredObject] = []
        async for found in self._objects.list_files():
            page.append(found)
            if len(page) == _PAGE:
                yield page
                page = []
                await asyncio.sleep(0)  # the listing of a folder never yields to the event loop
        yield page

    async def _without_row(self, page: list[StoredObject]) -> list[StoredObject]:
        oldest = datetime.now(UTC) - MIN_AGE
        old = [found for found in page if found.modified_at < oldest]
        if not old:
            return []
        rows = await self._statements.fetch("find_files", [file_id_of(found.key) for found in old])
        known = {key_of(row["user_id"], row["id"], row["content_type"]) for row in rows}
        return [found for found in old if found.key not in known]
