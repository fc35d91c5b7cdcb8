"""A file that is in the store, as its row tells of it."""

from dataclasses import dataclass
from uuid import UUID

import asyncpg

from server.storage.objects import ObjectKey, key_of


@dataclass(frozen=True, slots=True)
class StoredFile:
    """`size` is in bytes. Its bytes never change: another content is another file."""

    id: UUID
    user_id: UUID
    content_type: str
    size: int

    @property
    def key(self) -> ObjectKey:
        return key_of(self.user_id, self.id, self.content_type)


def stored_file_of(row: asyncpg.Record) -> StoredFile:
    return StoredFile(row["id"], row["user_id"], row["content_type"], row["size"])
