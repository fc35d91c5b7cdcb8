"""Files in real processes: what they cost in memory, and what is left of them after a kill at any moment."""

import asyncio
import contextlib
import hashlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import asyncpg
import psutil
import pytest
from aiohttp import web

from tests.fakes.huggingface import Answer, End, FakeHuggingFace
from tests.fakes.media import PNG
from tests.fakes.s3 import ACCESS_KEY, BUCKET, REGION, SECRET, FakeS3
from tests.faults.audit import embedded_url
from tests.faults.copy_file import CHUNKS_PER_MIB, MIB, chunk
from tests.faults.processes import ServerProcess, server_process, serving, until
from tests.postgres import run

SIZE_MIB, OUTPUT_MIB, MAX_GROWTH_MIB = 200, 50, 20


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


def query(url: str, statement: str, *args: Any) -> list[asyncpg.Record]:
    async def fetch() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetch(statement, *args)
        finally:
            await connection.close()

    return run(fetch())


def begin(server: ServerProcess, size: int, sent: int) -> socket.socket:
    """An upload that has come so far, and stays there until its socket is closed."""
    connection = socket.create_connection(("127.0.0.1", server.port))
    head = f"POST /api/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token}\r\n"
    head += f"Content-Type: image/png\r\nContent-Length: {size}\r\n\r\n"
    connection.sendall(head.encode() + PNG + bytes(sent - len(PNG)))
    return connection


def files_in(data_dir: Path) -> list[Path]:
    return [path for path in (data_dir / "files").rglob("*") if path.is_file()]


COUNT = "SELECT count(*) AS count, coalesce(sum(size), 0)::bigint AS size FROM public.files WHERE state <> 'deleting'"
ALL_DUE = "UPDATE public.files SET due_at = now() - interval '1 s' WHERE state <> 'kept'"


@pytest.mark.parametrize("sent", [1_000, 9 * MIB], ids=["at its beginning", "in the middle"])
def test_a_kill_during_an_upload_gives_back_what_was_set_aside(tmp_path: Path, database: str, sent: int) -> None:
    data_dir = tmp_path / "data"
    with server(data_dir, database, UPLOAD_QUOTA_MB="64") as process:
        process.sign_up()
        upload = begin(process, 50 * MIB, sent)
        until(lambda: query(database, COUNT)[0]["size"] == 50 * MIB)
        if sent > 5 * MIB:
            until(lambda: bool(files_in(data_dir)))
        assert process.call("GET", "/api/requests")[0] == 200
        status, refusal = send(process, 20)
        assert (status, refusal["code"]) == (429, "RATE_LIMITED")
        process.kill()
        upload.close()
        query(database, ALL_DUE)
        process.start()
        until(lambda: query(database, COUNT)[0]["count"] == 0, timeout_s=50)
        assert send(process, 20)[0] == 201
        assert len([path for path in files_in(data_dir) if "#" not in path.name]) == 1


PICTURE = Answer(headers={"Content-Type": "image/png"}, pieces=(PNG, *(chunk(number) * 4 for number in range(20))))
HALF = replace(PICTURE, pieces=PICTURE.pieces[:12], end=End.STALL)
SLOW = replace(PICTURE, pause_s=0.2)
DRAW = {"model_type": "text-to-image", "input_data": {"prompt": "noise"}}


def draw(server: ServerProcess) -> str:
    """The path of a request whose picture is on its way, and in the store in part."""
    status, item = server.call("POST", "/api/requests", DRAW, Prefer="respond-async")
    assert status == 202, item
    until(lambda: any("#" in path.name and path.stat().st_size for path in files_in(server.data_dir)))
    return f"/api/requests/{item['id']}"


def take_picture(server: ServerProcess, path: str) -> None:
    """Once it is there: it is whole."""
    until(lambda: server.call("GET", path)[1].get("status") == "completed", timeout_s=60)
    _, item = server.call("GET", path)
    [file] = item["output_data"]["files"]
    assert receive(server, file["url"]) == hashlib.sha256(PICTURE.body).hexdigest()


def assert_one_is_kept(data_dir: Path, database: str) -> None:
    query(database, ALL_DUE)
    until(lambda: [row["state"] for row in query(database, "SELECT state FROM public.files")] == ["kept"], timeout_s=40)
    assert len([path for path in files_in(data_dir) if "#" not in path.name]) == 1


async def test_a_kill_in_the_middle_of_a_picture_leaves_the_one_that_is_made_after_it(
    tmp_path: Path, database: str
) -> None:
    data_dir = tmp_path / "data"
    async with (
        FakeHuggingFace(HALF, default=lambda _: PICTURE) as upstream,
        serving(data_dir, DATABASE_URL=database, HF_BASE_URL=upstream.url, TEXT_MODELS="org/m") as process,
    ):
        path = await asyncio.to_thread(draw, process)
        process.kill()
        await asyncio.to_thread(process.start)
        await asyncio.to_thread(take_picture, process, path)
        await asyncio.to_thread(assert_one_is_kept, data_dir, database)
    assert len(upstream.calls) == 2


@pytest.mark.slow
async def test_another_server_makes_the_picture_of_one_that_died(tmp_path: Path, database: str) -> None:
    data_dir = tmp_path / "data"
    (data_dir / "files").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "files").symlink_to(data_dir / "files")
    async with FakeHuggingFace(HALF, default=lambda _: PICTURE) as upstream:
        settings = {"DATABASE_URL": database, "HF_BASE_URL": upstream.url, "TEXT_MODELS": "org/m"}
        async with serving(data_dir, **settings) as one, serving(tmp_path / "other", **settings) as other:
            other.token = one.token
            path = await asyncio.to_thread(draw, one)
            one.kill()
            await asyncio.to_thread(take_picture, other, path)
            await asyncio.to_thread(assert_one_is_kept, data_dir, database)


@pytest.mark.slow
async def test_the_database_goes_in_the_middle_of_a_picture(tmp_path: Path) -> None:
    """An embedded one, that is killed: an outage, after which the request completes, with one picture."""
    data_dir = tmp_path / "data"
    async with (
        FakeHuggingFace(SLOW, default=lambda _: PICTURE) as upstream,
        serving(data_dir, HF_BASE_URL=upstream.url, TEXT_MODELS="org/m") as process,
    ):
        path = await asyncio.to_thread(draw, process)
        kill_postgres(process)
        await asyncio.to_thread(until, lambda: process.call("GET", "/health/ready")[0] == 200)
        await asyncio.to_thread(take_picture, process, path)
        await asyncio.to_thread(assert_one_is_kept, data_dir, embedded_url(process))


def kill_postgres(server: ServerProcess) -> None:
    """All processes of the embedded one but the first, which takes itself up again."""
    assert server.process is not None
    [postmaster] = [child for child in psutil.Process(server.process.pid).children() if child.name() == "postgres"]
    for child in postmaster.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def test_a_server_that_is_killed_while_it_deletes_goes_on_when_it_is_back(tmp_path: Path, database: str) -> None:
    data_dir = tmp_path / "data"
    with server(data_dir, database) as process:
        process.sign_up()
        ids = [send(process, 0)[1]["id"] for _ in range(30)]
        assert len(files_in(data_dir)) == 30
        query(database, "CREATE RULE slow AS ON DELETE TO public.files DO INSTEAD NOTHING")  # objects go, rows do not
        for file_id in ids:
            assert process.call("DELETE", f"/api/files/{file_id}")[0] == 204
        until(lambda: not files_in(data_dir))
        process.kill()
        assert query(database, "SELECT count(*) FROM public.files")[0][0] == 30
        query(database, "DROP RULE slow ON public.files")
        query(database, ALL_DUE)
        process.start()
        until(lambda: query(database, "SELECT count(*) FROM public.files")[0][0] == 0)


@pytest.mark.slow
def test_the_database_goes_in_the_middle_of_an_upload(tmp_path: Path) -> None:
    """An embedded one, that is killed: the upload is refused, and nothing of it stays."""
    data_dir = tmp_path / "data"
    with server_process(data_dir) as process:
        process.sign_up()
        upload = begin(process, 9 * MIB, 8 * MIB)
        until(lambda: bool(files_in(data_dir)))
        kill_postgres(process)
        upload.sendall(bytes(MIB))
        upload.settimeout(30)
        answer = upload.recv(65536)
        upload.close()
        assert answer.split()[1] in {b"201", b"503"}
        until(lambda: process.call("GET", "/health/ready")[0] == 200)
        if answer.split()[1] == b"503":
            until(lambda: not files_in(data_dir), timeout_s=50)
        else:
            assert len(files_in(data_dir)) == 1


@pytest.mark.slow
def test_two_servers_share_the_files(tmp_path: Path, database: str) -> None:
    """On the same folder: what one takes in the other shows and deletes, and what one leaves the other takes away."""
    (tmp_path / "data" / "files").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "files").symlink_to(tmp_path / "data" / "files")
    with (
        server(tmp_path / "data", database) as one,
        server(tmp_path / "other", database) as other,
    ):
        one.sign_up()
        other.token = one.token
        _, file = send(one, 1)
        assert receive(other, f"/api/files/{file['id']}") == digest_of(1)
        assert other.call("DELETE", f"/api/files/{file['id']}")[0] == 204
        until(lambda: not files_in(tmp_path / "data"))
        upload = begin(one, 50 * MIB, 1_000)
        until(lambda: query(database, COUNT)[0]["count"] == 1)
        one.kill()
        upload.close()
        [owner] = query(database, "SELECT owner FROM public.files")
        query(database, "UPDATE public.instances SET lease_until = now() - interval '1 hour' WHERE id = $1", owner[0])
        query(database, ALL_DUE)
        until(lambda: query(database, COUNT)[0]["count"] == 0, timeout_s=40)
