"""Files in real processes: what is left of them after a kill at any moment."""

import asyncio
import contextlib
import hashlib
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from tests.fakes.huggingface import Answer, End, FakeHuggingFace
from tests.fakes.media import PNG
from tests.faults.audit import embedded_url
from tests.faults.copy_file import MIB, chunk
from tests.faults.files import digest_of, receive, send, server
from tests.faults.processes import ServerProcess, server_process, serving, until
from tests.postgres import run


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
    head = f"POST /api/files HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.token}\r\n"
    head += f"Content-Type: image/png\r\nContent-Length: {size}\r\n\r\n"
    connection.sendall(head.encode() + PNG + bytes(sent - len(PNG)))
    return connection


def files_in(data_dir: Path) -> list[Path]:
    return [path for path in (data_dir / "files").rglob("*") if path.is_file() and path.name != ".store-id"]


COUNT = "SELECT count(*) AS count, coalesce(sum(size), 0)::bigint AS size FROM public.files WHERE state <> 'deleting'"
ALL_DUE = "UPDATE public.files SET due_at = now() - interval '1 s' WHERE state <> 'kept'"


@pytest.mark.parametrize("sent", [MIB // 8, 9 * MIB], ids=["at its beginning", "in the middle"])
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
        upload = begin(one, 50 * MIB, MIB // 8)
        until(lambda: query(database, COUNT)[0]["count"] == 1)
        one.kill()
        upload.close()
        [owner] = query(database, "SELECT owner FROM public.files")
        query(database, "UPDATE public.instances SET lease_until = now() - interval '1 hour' WHERE id = $1", owner[0])
        query(database, ALL_DUE)
        until(lambda: query(database, COUNT)[0]["count"] == 0, timeout_s=40)
