"""A stored file, and the lookup of files that a user may read."""

from dataclasses import dataclass
from uuid import UUID

import asyncpg

from server.errors import NotFound
from server.model_request import RequestId, UserId
from server.storage.objects import ObjectKey, key_of
from server.storage.reader import PooledQueries

NO_UPLOAD = "There is no file of yours with this id."
NO_OUTPUT = "There is no such file of a completed model request of yours."


@dataclass(frozen=True, slots=True)
class StoredFile:
    """`size` is in bytes. The content of a file never changes."""

    id: UUID
    user_id: UUID
    content_type: str
    size: int

    @property
    def key(self) -> ObjectKey:
        return key_of(self.user_id, self.id, self.content_type)


def stored_file_of(row: asyncpg.Record) -> StoredFile:
    return StoredFile(row["id"], row["user_id"], row["content_type"], row["size"])


class FileFinder:
    """Finds files of a user. The queries check the owner."""

    def __init__(self, reader: PooledQueries) -> None:
        self._reader = reader

    async def upload(self, user_id: UserId, file_id: UUID) -> StoredFile:
        """Raises `NotFound`, also for a file of another user."""
        row = await self._reader.fetch_row("find_upload", file_id, user_id)
        if row is None:
            raise NotFound(NO_UPLOAD)
        return stored_file_of(row)

    async def output(self, user_id: UserId, request_id: RequestId, number: int) -> StoredFile:
        """File `number` of a completed request. Raises `NotFound`."""
        row = await self._reader.fetch_row("find_output", request_id, user_id, number)
        if row is None:
            raise NotFound(NO_OUTPUT)
        return stored_file_of(row)
