"""Files sent to a server process and fetched from it, in pieces that nobody has to keep."""

import contextlib
import hashlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.fakes.media import PNG
from tests.faults.copy_file import CHUNKS_PER_MIB, MIB, chunk
from tests.faults.processes import ServerProcess, server_process


@contextlib.contextmanager
def server(data_dir: Path, database: str, **settings: str) -> Iterator[ServerProcess]:
    with server_process(data_dir, DATABASE_URL=database, INFERENCE_BACKEND="offline", **settings) as server:
        yield server


def send(server: ServerProcess, size_mib: int, *, chunked: bool = False) -> tuple[int, Any]:
    """Upload a picture of that size, in pieces."""

    def pieces() -> Iterator[bytes]:
        yield PNG
        for number in range(size_mib * CHUNKS_PER_MIB):
            yield chunk(number)

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=100)
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "image/png"}
    if not chunked:
        headers["Content-Length"] = str(len(PNG) + size_mib * MIB)
    with contextlib.closing(connection):
        connection.request("POST", "/api/files", pieces(), headers, encode_chunked=chunked)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def digest_of(size_mib: int) -> str:
    digest = hashlib.sha256(PNG)
    for number in range(size_mib * CHUNKS_PER_MIB):
        digest.update(chunk(number))
    return digest.hexdigest()


def receive(server: ServerProcess, path: str) -> str:
    """The digest of a file."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=100)
    digest = hashlib.sha256()
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Authorization": f"Bearer {server.token}"})
        response = connection.getresponse()
        assert response.status == 200
        while piece := response.read(MIB):
            digest.update(piece)
    return digest.hexdigest()
