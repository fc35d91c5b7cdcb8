"""A process of its own: keeps and reads a file by `Objects`, and prints by how many MiB memory grew, and the digest.

Arguments: MiB of the file, then a folder, or URL, region, bucket, access key and secret.
"""

import hashlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import psutil
import uvloop
from pydantic import SecretStr

from server.storage.objects import Objects
from server.storage.objects.locations import Bucket, LocalFolder
from tests.fixtures.object_keys import new_key

MIB = 1024 * 1024
CHUNKS_PER_MIB = 16
WARM_UP_MIB = 12


def chunk(number: int) -> bytes:
    """Piece `number` of the file."""
    return number.to_bytes(4, "big") * (MIB // CHUNKS_PER_MIB // 4)


class Watch:
    """The most memory that was seen since it began."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.peak = 0

    def look(self) -> None:
        self.peak = max(self.peak, self._process.memory_info().rss)


async def copy(objects: Objects, size_mib: int) -> tuple[int, str]:
    """Peak of memory in bytes, and the digest of what came back."""
    watch, key, digest = Watch(), new_key(UUID(int=1), "audio/wav"), hashlib.sha256()

    async def chunks() -> AsyncIterator[bytes]:
        for number in range(size_mib * CHUNKS_PER_MIB):
            watch.look()
            yield chunk(number)

    await objects.put(key, chunks(), max_bytes=size_mib * MIB)
    async for piece in (await objects.get(key)).chunks:
        watch.look()
        digest.update(piece)
    return watch.peak, digest.hexdigest()


async def main(size_mib: int, place: str, *bucket: str) -> None:
    if bucket:
        region, name, key, secret = bucket
        objects = Objects(Bucket(place, region, name, SecretStr(key), SecretStr(secret)))
    else:
        objects = Objects(LocalFolder(Path(place)))
    before, _ = await copy(objects, WARM_UP_MIB)
    peak, digest = await copy(objects, size_mib)
    await objects.close()
    print((peak - before) // MIB, digest)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), *sys.argv[2:]))
