"""What the S3 protocol carries, and every way in which a bucket can fail: told to the operator, never a secret."""

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from pydantic import SecretStr
from structlog.testing import capture_logs

from server.errors import BodyTooLarge, NotFound, Problem, Unavailable, UnsupportedMedia
from server.storage.objects import ObjectKey, Objects
from server.storage.objects.locations import Bucket
from server.storage.objects.storage_faults import StorageFault, fix_for
from tests.fakes.s3 import ACCESS_KEY, BUCKET, REGION, SECRET, FakeS3, error_answer
from tests.fixtures.object_keys import new_key

USER = UUID(int=1)
MIB = 1024 * 1024
KEY = new_key(USER, "image/png")


@pytest.fixture
async def fake() -> AsyncIterator[FakeS3]:
    async with FakeS3() as fake:
        yield fake


def objects(fake: FakeS3, **changes: Any) -> Objects:
    values: dict[str, Any] = {
        "url": fake.url,
        "region": REGION,
        "name": BUCKET,
        "access_key_id": SecretStr(ACCESS_KEY),
        "secret_access_key": SecretStr(SECRET),
        "read_timeout_s": 1.0,
        "retries": 1,
    }
    return Objects(Bucket(**values | changes))


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def use_everything(store: Objects) -> list[ObjectKey]:
    await store.put(KEY, stream(b"small"), max_bytes=99)
    big = new_key(USER, "audio/wav")
    await store.put(big, stream(b"x" * 12 * MIB), max_bytes=20 * MIB)
    await store.head(KEY)
    for start in (0, 2):
        assert [chunk async for chunk in (await store.get(KEY, start=start)).chunks] == [b"small"[start:]]
    listed = [found.key async for found in store.list_files()]
    await store.delete([KEY, big])
    return listed


async def test_only_what_supabase_takes_is_sent_and_signed(fake: FakeS3) -> None:
    assert len(await use_everything(objects(fake))) == 2
    assert {method for method, _ in fake.calls} == {"PUT", "POST", "HEAD", "GET", "DELETE"}
    assert {name for names in fake.signed for name in names} == {
        "content-type", "host", "range", "x-amz-content-sha256", "x-amz-date",
    }  # fmt: skip
    sent = {name for headers in fake.headers for name in headers}
    assert sent - {"content-length"} == {
        "accept", "authorization", "content-type", "host", "range", "user-agent", "x-amz-content-sha256", "x-amz-date",
    }  # fmt: skip
    assert all(path.startswith(f"/storage/v1/s3/{BUCKET}") for _, path in fake.calls)


async def test_amazons_variables_do_not_count(fake: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {
        "AWS_ACCESS_KEY_ID": "canary",
        "AWS_SECRET_ACCESS_KEY": "canary",
        "AWS_SESSION_TOKEN": "canary",
        "AWS_REGION": "canary",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_ENDPOINT": "http://127.0.0.1:1",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_UNSIGNED_PAYLOAD": "true",
        "AWS_CHECKSUM_ALGORITHM": "sha256",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert len(await use_everything(objects(fake))) == 2
    assert "canary" not in str(fake.headers)
    assert variables.items() <= os.environ.items()


async def test_files_that_are_not_ours_are_neither_listed_nor_in_the_way(fake: FakeS3) -> None:
    store = objects(fake)
    await store.put(KEY, stream(b"x"), max_bytes=9)
    fake.buckets[BUCKET] |= dict.fromkeys(["readme.txt", f"{USER}/holiday photo.png"], fake.buckets[BUCKET][KEY])
    assert [found.key async for found in store.list_files()] == [KEY]


async def test_a_listing_goes_on_over_many_pages(fake: FakeS3) -> None:
    store = objects(fake)
    await store.put(KEY, stream(b"x"), max_bytes=9)
    keys = {new_key(USER, "text/plain") for _ in range(2500)} | {KEY}
    fake.buckets[BUCKET] = dict.fromkeys(keys, fake.buckets[BUCKET][KEY])
    assert {found.key async for found in store.list_files()} == keys
    assert sum(method == "GET" for method, _ in fake.calls) == 3


WRONG: list[tuple[dict[str, Any], StorageFault]] = [
    ({"access_key_id": SecretStr("other-canary")}, StorageFault.ACCESS_KEY),
    ({"secret_access_key": SecretStr("secret-canary")}, StorageFault.SECRET_KEY),
    ({"region": "us-west-1"}, StorageFault.REGION),
    ({"name": "nowhere"}, StorageFault.NO_BUCKET),
    ({"url": "http://127.0.0.1:1/storage/v1/s3"}, StorageFault.AWAY),
    ({"url": "http://no-such-host.invalid/storage/v1/s3"}, StorageFault.AWAY),
]


@pytest.mark.parametrize(("changes", "fault"), WRONG, ids=[str(fault) + str(n) for n, (_, fault) in enumerate(WRONG)])
async def test_what_is_configured_wrongly_is_named_to_the_operator_alone(
    fake: FakeS3, changes: dict[str, Any], fault: StorageFault
) -> None:
    store = objects(fake, **changes)
    assert await store.check() is fault
    with capture_logs() as logs:
        for size in (1, 6 * MIB):
            with pytest.raises(Unavailable) as raised:
                await store.put(KEY, stream(b"x" * size), max_bytes=10 * MIB)
            assert raised.value.detail == "The storage is not available; try again."
        with pytest.raises(Unavailable):
            [_ async for _ in store.list_files()]
    assert [(line["event"], line["fault"]) for line in logs] == [("storage_fault", fault.value)]
    assert fix_for(fault) == logs[0]["fix"]
    assert "canary" not in str(logs) + repr(store.location) + str(store.location)
    assert fake.uploads == {}


async def test_clocks_that_differ_are_named(fake: FakeS3) -> None:
    fake.clock_ahead = timedelta(hours=1)
    assert await objects(fake).check() is StorageFault.CLOCK


@pytest.mark.parametrize("body", ["<html>not here</html>", "", "{}"])
@pytest.mark.parametrize("status", [200, 400, 404, 500])
async def test_an_address_that_is_no_s3_is_not_taken_for_one(fake: FakeS3, status: int, body: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=body, content_type="text/html")

    fake.fault = answer
    assert await objects(fake, retries=0).check() is StorageFault.UNEXPECTED


REFUSALS = [
    (413, "EntityTooLarge", BodyTooLarge),
    (415, "InvalidMimeType", UnsupportedMedia),
    (403, "AccessDenied", Unavailable),
    (429, "SlowDown", Unavailable),
    (503, "SlowDown", Unavailable),
    (500, "InternalError", Unavailable),
]


@pytest.mark.parametrize("size", [1, 6 * MIB], ids=["one call", "parts"])
@pytest.mark.parametrize(("status", "code", "problem"), REFUSALS)
async def test_a_refused_upload_is_said_and_leaves_nothing(
    fake: FakeS3, status: int, code: str, problem: type[Problem], size: int
) -> None:
    async def refuse(request: web.Request) -> web.Response | None:
        if request.method == "PUT":
            await request.read()
            return error_answer(status, code)
        return None

    fake.fault = refuse
    with pytest.raises(problem):
        await objects(fake).put(KEY, stream(b"x" * size), max_bytes=10 * MIB)
    assert fake.uploads == {}
    assert fake.buckets == {BUCKET: {}}


async def test_the_store_may_be_away_for_a_moment(fake: FakeS3) -> None:
    answers = iter([error_answer(503, "SlowDown"), error_answer(500, "InternalError")])

    async def stumble(_: web.Request) -> web.Response | None:
        return next(answers, None)

    fake.fault = stumble
    await objects(fake, retries=3).put(KEY, stream(b"x"), max_bytes=9)
    assert fake.buckets[BUCKET][KEY].data == b"x"


async def test_a_connection_that_is_cut_is_taken_up_where_it_broke(fake: FakeS3) -> None:
    store, data = objects(fake, retries=3), os.urandom(2 * MIB)
    await store.put(KEY, stream(data), max_bytes=3 * MIB)
    is_first = iter([True])

    async def cut(request: web.Request) -> web.StreamResponse | None:
        if not next(is_first, False):
            return None
        kept = fake.buckets[BUCKET][KEY]
        answer = web.StreamResponse(headers={"ETag": kept.etag, "Last-Modified": "Tue, 24 Nov 2026 08:00:00 GMT"})
        answer.content_length = len(data)
        await answer.prepare(request)
        await answer.write(data[:MIB])
        assert request.transport is not None
        request.transport.close()
        return answer

    fake.fault = cut
    assert b"".join([chunk async for chunk in (await store.get(KEY)).chunks]) == data
    assert "range" in fake.headers[-1]


async def test_a_store_that_does_not_answer_is_given_up(fake: FakeS3) -> None:
    released = asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        await released.wait()
        return web.Response()

    fake.fault = hang
    try:
        for call in (objects(fake).head(KEY), objects(fake).put(KEY, stream(b"x"), max_bytes=9)):
            with pytest.raises(Unavailable):
                await asyncio.wait_for(call, 30)
    finally:
        released.set()


async def test_a_file_that_was_never_there_is_deleted_but_a_missing_bucket_is_said(fake: FakeS3) -> None:
    await objects(fake).delete([KEY])
    with pytest.raises(Unavailable):
        await objects(fake, name="nowhere").delete([KEY])
    with pytest.raises(NotFound):
        await objects(fake).get(KEY)
