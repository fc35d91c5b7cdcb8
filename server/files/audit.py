"""Once a day: whether each object in the store has a row, and each file that is kept something that keeps it."""

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
"""Younger objects may belong to a row that is still to come: those of an import that runs now, say."""
_PAGE = 500
_MAX_DELETED = 1000
"""In one go; tomorrow is another day."""
_MAX_SHARE = 0.1
_ALWAYS_FEW = 20
"""More than so many, and more than that share of all there is, are not orphans: it is the store of another database."""

log = structlog.get_logger(__name__)


class Audit:
    """What a crash between two steps can leave behind: an object that was put after its row had gone, half an upload.

    The first one comes within an hour of the start, at a random moment, so that instances do not do it all at once.
    """

    def __init__(
        self, statements: Statements, objects: Objects, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._statements = statements
        self._objects = objects
        self._clock = clock
        self._due_at = clock() + random.uniform(0.1, 1) * 3600  # noqa: S311

    async def run_if_due(self) -> None:
        """Raises a `Problem` while database or store are away; then it comes again in an hour."""
        if self._clock() < self._due_at:
            return
        self._due_at = self._clock() + 3600
        await self.run()
        self._due_at = self._clock() + INTERVAL_S * random.uniform(0.9, 1.1)  # noqa: S311

    async def run(self) -> None:
        """Look at everything once. Deletes nothing where that would be suspiciously much."""
        doubted = await self._statements.fetch("doubt_files", _MAX_DELETED)
        await self._objects.remove_leftovers(older_than=datetime.now(UTC) - MIN_AGE)
        count, orphans = 0, list[StoredObject]()
        async for page in self._pages():
            count += len(page)
            if len(orphans) < _MAX_DELETED:
                orphans += await self._without_row(page)
        if len(orphans) > max(_ALWAYS_FEW, count * _MAX_SHARE):
            log.error(
                "files_without_rows",
                count=len(orphans),
                of=count,
                fix="Nothing was deleted. Is this the bucket, or the folder, of another database? Each needs its own.",
            )
            return
        await self._objects.delete([found.key for found in orphans])
        log.info("files_audited", count=count, orphans=len(orphans), doubted=len(doubted))

    async def _pages(self) -> AsyncIterator[list[StoredObject]]:
        page: list[StoredObject] = []
        async for found in self._objects.list_files():
            page.append(found)
            if len(page) == _PAGE:
                yield page
                page = []
                await asyncio.sleep(0)  # a listing of a folder comes without a pause
        yield page

    async def _without_row(self, page: list[StoredObject]) -> list[StoredObject]:
        oldest = datetime.now(UTC) - MIN_AGE
        old = [found for found in page if found.modified_at < oldest]
        if not old:
            return []
        rows = await self._statements.fetch("find_files", [file_id_of(found.key) for found in old])
        known = {key_of(row["user_id"], row["id"], row["content_type"]) for row in rows}
        return [found for found in old if found.key not in known]
