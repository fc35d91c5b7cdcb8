"""Files over HTTP: what a request made, whole and in part, for its owner alone; and when all of it goes."""

import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from pytest_aiohttp import AiohttpClient

from server.errors import Unavailable
from server.http import keys
from server.inference.events import FileChunk
from server.model_request import InstanceId, RequestId, UserId
from server.storage.objects import create_objects
from tests.acceptance.conftest import Api, Start
from tests.fakes.media import PNG, png
from tests.fakes.s3 import ACCESS_KEY, BUCKET, REGION, SECRET, FakeS3
from tests.integration.files import image, run_of
from tests.signals import until

DATA = png(40, 40) + bytes(range(256)) * 4096


@pytest.fixture
async def fake() -> AsyncIterator[FakeS3]:
    async with FakeS3() as fake:
        yield fake


@pytest.fixture(params=["folder", "bucket"])
async def api(request: pytest.FixtureRequest, start: Start, fake: FakeS3, tmp_path: Path) -> Api:
    bucket = {
        "storage_url": fake.url,
        "storage_region": REGION,
        "storage_bucket": BUCKET,
        "storage_access_key_id": ACCESS_KEY,
        "storage_secret_access_key": SECRET,
    }
    return await (await start(data_dir=tmp_path, **(bucket if request.param == "bucket" else {}))).sign_up()


async def fetch(database: str, query: str, *args: Any) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(database)
    try:
        return await connection.fetch(query, *args)
    finally:
        await connection.close()


async def stored(api: Api) -> set[str]:
    objects = create_objects(api.app[keys.SETTINGS])
    return {found.key async for found in objects.list_files()}


async def until_nothing_is_stored(api: Api, database: str) -> None:
    async def is_empty() -> bool:
        return not (await stored(api) or await fetch(database, "SELECT FROM public.files"))

    await until(is_empty)


async def make(api: Api, database: str, *files: bytes, status: str = "completed") -> tuple[str, list[Any]]:
    """A request of this user with these files, as a generator makes them; how they stand in its output."""
    request_id = (await api.create()).json["id"]
    # What the generator will do by itself; the row is put back to where it runs, which its trigger refuses.
    [[epoch]] = await fetch(database, "SELECT epoch FROM public.model_requests WHERE id = $1", UUID(request_id))
    await fetch(
        database,
        "WITH gone AS (DELETE FROM public.model_requests WHERE id = $1 RETURNING *)"
        " INSERT INTO public.model_requests (id, user_id, status, model_type, input_data, owner, epoch)"
        " SELECT id, user_id, 'processing', model_type, input_data, owner, epoch FROM gone",
        UUID(request_id),
    )
    assert api.user_id is not None
    run = run_of(RequestId(UUID(request_id)), UserId(UUID(api.user_id)), InstanceId(UUID(int=1)), epoch)
    outputs = api.app[keys.ENGINE].request_files.outputs(run)
    for number, data in enumerate(files):
        await outputs.take(FileChunk(data[:1000], number, "image/png"))
        await outputs.take(FileChunk(data[1000:], number, "image/png"))
    listed = await outputs.finish()
    await fetch(
        database,
        "UPDATE public.model_requests SET status = $2, completed_at = now() WHERE id = $1 AND $2 <> 'processing'",
        UUID(request_id),
        status,
    )
    return request_id, listed


async def test_a_file_of_a_completed_request_is_shown_with_what_browsers_need(api: Api, database: str) -> None:
    request_id, files = await make(api, database, DATA, PNG)
    assert files[0] == {
        "number": 0,
        "content_type": "image/png",
        "size": len(DATA),
        "url": f"/api/requests/{request_id}/files/0",
    }
    reply = await api.get(files[0]["url"])
    assert (reply.status, reply.body) == (200, DATA)
    assert {name: reply.headers[name] for name in (
        "Content-Type", "Content-Length", "Accept-Ranges", "X-Content-Type-Options", "Cache-Control",
    )} == {
        "Content-Type": "image/png",
        "Content-Length": str(len(DATA)),
        "Accept-Ranges": "bytes",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, max-age=31536000, immutable",
    }  # fmt: skip
    assert reply.headers["Content-Disposition"] == f'inline; filename="{request_id}-0.png"'
    assert reply.headers["Content-Security-Policy"].startswith("sandbox")
    assert reply.headers["X-Request-Id"]
    second = await api.get(f"/requests/{request_id}/files/1")
    assert (second.status, second.body) == (200, PNG)
    for number in ("2", "-1", "x", "01", "99999999999"):
        assert (await api.get(f"/api/requests/{request_id}/files/{number}")).status == 404


@pytest.mark.parametrize(
    ("header", "status", "first", "end"),
    [
        ("bytes=0-0", 206, 0, 1),
        ("bytes=100-199", 206, 100, 200),
        ("bytes=1048000-", 206, 1_048_000, None),
        ("bytes=-5", 206, -5, None),
        ("bytes=0-99999999999", 206, 0, None),
        ("bytes=0-1,5-6", 200, 0, None),
        ("pages=1", 200, 0, None),
    ],
)
async def test_a_part_is_exactly_that(
    api: Api, database: str, header: str, status: int, first: int, end: int | None
) -> None:
    request_id, _ = await make(api, database, DATA)
    reply = await api.get(f"/api/requests/{request_id}/files/0", headers={"Range": header})
    assert (reply.status, reply.body) == (status, DATA[first:end])
    if status == 206:
        last = (len(DATA) if end is None else end) - 1
        assert reply.headers["Content-Range"] == f"bytes {first % len(DATA)}-{last}/{len(DATA)}"


async def test_a_part_beyond_the_end_says_how_long_the_file_is(api: Api, database: str) -> None:
    request_id, _ = await make(api, database, PNG)
    reply = await api.get(f"/api/requests/{request_id}/files/0", headers={"Range": f"bytes={len(PNG)}-"})
    assert (reply.status, reply.json["code"]) == (416, "VALIDATION_ERROR")
    assert reply.headers["Content-Range"] == f"bytes */{len(PNG)}"


async def test_conditions_are_followed(api: Api, database: str) -> None:
    request_id, _ = await make(api, database, PNG)
    url = f"/api/requests/{request_id}/files/0"
    etag = (await api.get(url)).headers["ETag"]
    for tags in (etag, f'"other", W/{etag}', "*"):
        unchanged = await api.get(url, headers={"If-None-Match": tags})
        assert (unchanged.status, unchanged.body, unchanged.headers["ETag"]) == (304, b"", etag)
    assert (await api.get(url, headers={"If-None-Match": '"other"'})).status == 200
    part = await api.get(url, headers={"Range": "bytes=0-3", "If-Range": etag})
    assert (part.status, part.body) == (206, PNG[:4])
    whole = await api.get(url, headers={"Range": "bytes=0-3", "If-Range": '"other"'})
    assert (whole.status, whole.body) == (200, PNG)
    head = await api.send("HEAD", url)
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(PNG)))
    assert head.headers["Content-Type"] == "image/png"


@pytest.mark.parametrize("status", ["processing", "failed", "cancelled"])
async def test_a_file_of_a_request_that_is_not_completed_is_not_there(api: Api, database: str, status: str) -> None:
    request_id, _ = await make(api, database, PNG, status=status)
    assert (await api.get(f"/api/requests/{request_id}/files/0")).status == 404


async def test_another_user_sees_no_file(api: Api, database: str) -> None:
    request_id, _ = await make(api, database, PNG)
    other, stranger = await api.sign_up(), Api(api.client, api.app)
    for path in (f"/api/requests/{request_id}/files/0", f"/requests/{request_id}/files/0"):
        for method in ("GET", "HEAD"):
            assert (await other.send(method, path)).status == 404
            assert (await stranger.send(method, path)).status == 401
        assert (await other.get(path, headers={"Range": "bytes=0-1"})).status == 404
        assert (await api.get(path)).status == 200


async def test_a_file_that_a_crashed_run_left_is_not_shown(api: Api, database: str) -> None:
    request_id, _ = await make(api, database, PNG)
    await fetch(database, "UPDATE public.files SET epoch = epoch - 1")
    assert (await api.get(f"/api/requests/{request_id}/files/0")).status == 404


async def test_bytes_that_are_missing_or_cut_are_not_passed_off_as_the_file(
    api: Api, database: str, fake: FakeS3, tmp_path: Path
) -> None:
    request_id, _ = await make(api, database, DATA)
    [key] = await stored(api)
    is_missing = bool(fake.buckets[BUCKET])
    if is_missing:
        fake.buckets[BUCKET].clear()
    else:
        (tmp_path / "files" / key).write_bytes(DATA[:100])
    reply = await api.get(f"/api/requests/{request_id}/files/0")
    assert (reply.status, reply.json["code"]) == ((503, "SERVER_ERROR") if is_missing else (404, "NOT_FOUND"))


async def test_files_go_with_their_request_and_at_once(api: Api, database: str) -> None:
    request_id, _ = await make(api, database, DATA, PNG)
    file_id = (await api.post("/api/files", data=PNG, headers={"Content-Type": "image/png"})).json["id"]
    assert api.user_id is not None
    user_id = UserId(UUID(api.user_id))
    assert await api.app[keys.REQUESTS].input_files.attach(user_id, RequestId(UUID(request_id)), image(UUID(file_id)))
    assert len(await stored(api)) == 3
    await fetch(database, "DELETE FROM public.model_requests WHERE id = $1", UUID(request_id))
    api.app[keys.ENGINE].collector.wake()
    await until_nothing_is_stored(api, database)
    assert (await api.get(f"/api/files/{file_id}")).status == 404


async def test_files_go_with_the_account_and_at_once(api: Api, database: str) -> None:
    await make(api, database, DATA)
    await api.post("/api/files", data=PNG, headers={"Content-Type": "image/png"})
    assert (await api.send("DELETE", "/auth/user")).status == 204
    await until_nothing_is_stored(api, database)
    late = await api.post("/api/files", data=PNG, headers={"Content-Type": "image/png"})
    assert (late.status, late.json["code"]) == (401, "AUTH_ERROR"), "its token lives on for an hour"


async def test_a_reader_that_leaves_frees_what_was_open_for_it(
    api: Api, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id, _ = await make(api, database, DATA * 20)
    objects, opened = api.app[keys.OBJECTS], list[Any]()
    opening = objects.get

    async def get(*args: Any, **options: Any) -> Any:
        opened.append(await opening(*args, **options))
        return opened[-1]

    monkeypatch.setattr(objects, "get", get)
    for _ in range(5):
        async with api.client.get(
            f"/api/requests/{request_id}/files/0", headers={"Authorization": f"Bearer {api.token}"}
        ) as response:
            assert (await response.content.read(1000))[:4] == DATA[:4]
            response.close()
    await until(lambda: all(one.chunks.ag_frame is None for one in opened))
    assert len(opened) == 5
    assert (await api.get(f"/api/requests/{request_id}/files/0", headers={"Range": "bytes=-1"})).status == 206


async def test_a_store_that_fails_in_the_middle_ends_the_connection(
    api: Api, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not the body as if it were whole."""
    request_id, _ = await make(api, database, DATA)
    objects = api.app[keys.OBJECTS]
    opening = objects.get

    async def get(*args: Any, **options: Any) -> Any:
        opened = await opening(*args, **options)

        async def breaks() -> AsyncGenerator[bytes, None]:
            yield await anext(opened.chunks)
            raise Unavailable("The storage is not available; try again.", retry_after_s=1)

        return dataclasses.replace(opened, chunks=breaks())

    monkeypatch.setattr(objects, "get", get)
    with pytest.raises(Exception, match=r"payload|disconnected|reset"):
        await api.get(f"/api/requests/{request_id}/files/0")


async def test_scripts_of_another_origin_read_the_headers(
    start: Start, tmp_path: Path, aiohttp_client: AiohttpClient
) -> None:
    api = await (await start(data_dir=tmp_path, allowed_origins="https://app.example")).sign_up()
    taken = await api.post("/api/files", data=PNG, headers={"Content-Type": "image/png"})
    reply = await api.get(f"/api/files/{taken.json['id']}", headers={"Origin": "https://app.example"})
    assert reply.headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert "Content-Range" in reply.headers["Access-Control-Expose-Headers"]
