"""A process of its own: makes a file as a model does, through `OutputFiles`; prints by how many MiB memory grew.

Arguments: MiB of the file, the database's URL, a folder, and the request, its user and its owner.
"""

import sys
from pathlib import Path
from uuid import UUID

import uvloop

from server.files.request_files import StoredFiles
from server.inference.events import FileChunk
from server.model_request import InstanceId, ModelRequest, RequestId, UserId
from server.storage.database import Database, Line
from server.storage.objects import Objects
from server.storage.objects.places import LocalFolder
from tests.fakes.media import PNG
from tests.faults.copy_file import CHUNKS_PER_MIB, MIB, WARM_UP_MIB, Watch, chunk
from tests.integration.files import run_of
from tests.rows import queries


async def make(files: StoredFiles, run: ModelRequest, size_mib: int) -> int:
    """Peak of memory in bytes."""
    watch, outputs = Watch(), files.outputs(run)
    await outputs.take(FileChunk(PNG, 0, "image/png"))
    for number in range(size_mib * CHUNKS_PER_MIB):
        watch.look()
        await outputs.take(FileChunk(chunk(number), 0, "image/png"))
    [made] = await outputs.finish()
    assert made["size"] == size_mib * MIB + len(PNG)
    return watch.peak


async def main(size_mib: int, url: str, folder: str, *ids: str) -> None:
    line, objects = Line(Database(url).connect), Objects(LocalFolder(Path(folder)))
    files = StoredFiles(line, queries(), objects)
    warm_up, request, user, owner = (UUID(text) for text in ids)
    before = await make(files, run_of(RequestId(warm_up), UserId(user), InstanceId(owner), 1), WARM_UP_MIB)
    peak = await make(files, run_of(RequestId(request), UserId(user), InstanceId(owner), 1), size_mib)
    line.terminate()
    await objects.close()
    print((peak - before) // MIB)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), *sys.argv[2:]))
