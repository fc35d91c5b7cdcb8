"""Files in real processes: what they cost in memory, which does not depend on their size."""

import asyncio
import hashlib
import threading
from pathlib import Path
from typing import Self

import psutil
import pytest
from aiohttp import web

from tests.fakes.media import PNG
from tests.fakes.s3 import ACCESS_KEY, BUCKET, REGION, SECRET, FakeS3
from tests.faults.copy_file import CHUNKS_PER_MIB, MIB, chunk
from tests.faults.files import digest_of, receive, send, server
from tests.faults.processes import ServerProcess, serving

SIZE_MIB, OUTPUT_MIB, MAX_GROWTH_MIB = 200, 50, 20


class Growth:
    """By how much a process grows, at the most, in the time of a `with`; in MiB."""

    def __init__(self, server: ServerProcess) -> None:
        assert server.process is not None
        self._process = psutil.Process(server.process.pid)
        self._start = self._process.memory_info().rss
        self._peak = self._start
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._is_over.wait(0.005):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    @property
    def mib(self) -> float:
        return (self._peak - self._start) / MIB


@pytest.mark.timeout(120)
@pytest.mark.parametrize("chunked", [False, True], ids=["length known", "length unknown"])
def test_a_large_upload_and_its_way_back_are_never_in_memory_as_a_whole(
    tmp_path: Path, database: str, *, chunked: bool
) -> None:
    with server(tmp_path / "data", database) as process:
        process.sign_up()
        with Growth(process) as growth:
            status, file = send(process, SIZE_MIB, chunked=chunked)
            assert (status, file["size"]) == (201, SIZE_MIB * MIB + len(PNG))
            assert receive(process, f"/api/files/{file['id']}") == digest_of(SIZE_MIB)
        print(f"an upload of {SIZE_MIB} MiB and its way back: memory grew by {growth.mib:.1f} MiB")
        assert growth.mib < MAX_GROWTH_MIB


@pytest.mark.timeout(120)
async def test_a_large_upload_to_a_bucket_is_never_in_memory_as_a_whole(tmp_path: Path, database: str) -> None:
    async with FakeS3() as fake:
        bucket = {
            "STORAGE_URL": fake.url,
            "STORAGE_REGION": REGION,
            "STORAGE_BUCKET": BUCKET,
            "STORAGE_ACCESS_KEY_ID": ACCESS_KEY,
            "STORAGE_SECRET_ACCESS_KEY": SECRET,
        }
        async with serving(tmp_path / "data", DATABASE_URL=database, INFERENCE_BACKEND="offline", **bucket) as process:
            with Growth(process) as growth:
                status, file = await asyncio.to_thread(send, process, SIZE_MIB)
                assert status == 201, file
            print(f"an upload of {SIZE_MIB} MiB to a bucket: memory grew by {growth.mib:.1f} MiB")
            assert growth.mib < MAX_GROWTH_MIB


class Studio:
    """A model provider that works on pictures: it makes one of that size, and digests what it is sent."""

    def __init__(self, size_mib: int) -> None:
        self._size_mib = size_mib
        self._runner = web.AppRunner(self._app(), shutdown_timeout=0.1)
        self.received = ""

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=2**30)
        app.router.add_post("/{path:.*}", self._work)
        return app

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _work(self, request: web.Request) -> web.StreamResponse:
        if request.content_type == "application/json":
            return await self._draw(request)
        digest = hashlib.sha256()
        async for piece in request.content.iter_any():
            digest.update(piece)
        self.received = digest.hexdigest()
        return web.json_response([{"label": "noise", "score": 1.0}])

    async def _draw(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": "image/png"})
        await response.prepare(request)
        await response.write(PNG)
        for number in range(self._size_mib * CHUNKS_PER_MIB):
            await response.write(chunk(number))
        return response


@pytest.mark.timeout(120)
async def test_a_large_picture_that_a_model_makes_is_never_in_memory_as_a_whole(tmp_path: Path, database: str) -> None:
    async with (
        Studio(OUTPUT_MIB) as studio,
        serving(tmp_path / "data", DATABASE_URL=database, HF_BASE_URL=studio.url, TEXT_MODELS="org/m") as process,
    ):
        with Growth(process) as growth:
            body = {"model_type": "text-to-image", "input_data": {"prompt": "noise"}}
            status, item = await asyncio.to_thread(process.call, "POST", "/api/requests", body)
            assert (status, item["status"]) == (200, "completed"), item
            [file] = item["output_data"]["files"]
            assert file["size"] == OUTPUT_MIB * MIB + len(PNG)
            assert await asyncio.to_thread(receive, process, file["url"]) == digest_of(OUTPUT_MIB)
        print(f"a picture of {OUTPUT_MIB} MiB made and fetched: memory grew by {growth.mib:.1f} MiB")
        assert growth.mib < MAX_GROWTH_MIB


@pytest.mark.timeout(120)
async def test_a_large_upload_that_a_model_works_on_is_never_in_memory_as_a_whole(
    tmp_path: Path, database: str
) -> None:
    async with (
        Studio(OUTPUT_MIB) as studio,
        serving(tmp_path / "data", DATABASE_URL=database, HF_BASE_URL=studio.url, TEXT_MODELS="org/m") as process,
    ):
        with Growth(process) as growth:
            _, file = await asyncio.to_thread(send, process, SIZE_MIB)
            body = {"model_type": "image-classification", "input_data": {"image": file["id"]}}
            status, item = await asyncio.to_thread(process.call, "POST", "/api/requests", body)
            assert (status, item["status"]) == (200, "completed"), item
        assert studio.received == digest_of(SIZE_MIB)
        print(f"{SIZE_MIB} MiB uploaded and sent to a model: memory grew by {growth.mib:.1f} MiB")
        assert growth.mib < MAX_GROWTH_MIB
