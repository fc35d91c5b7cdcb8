"""Adds the stored files to an archive."""

import contextlib

from server.commands.moving.archive import ArchiveWriter
from server.errors import NotFound
from server.storage.objects import Objects


async def add_files(archive: ArchiveWriter, objects: Objects) -> int:
    """Add every file under `files/`, without those that are deleted meanwhile. Returns their number."""
    count = 0
    async for found in objects.list_files():
        with contextlib.suppress(NotFound):
            opened = await objects.get(found.key)
            await archive.add_stream(f"files/{found.key}", opened.size, opened.chunks)
            count += 1
    return count
