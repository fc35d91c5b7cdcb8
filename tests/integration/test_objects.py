"""Files: the same promises in a folder, in a bucket of moto's S3 server, and in one like Supabase's."""

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import botocore.session
import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer
from pydantic import SecretStr

from server.errors import BodyTooLarge, Invalid, NotFound
from server.storage.objects import ObjectKey, Objects
from server.storage.objects.locations import Bucket, LocalFolder
from tests.fakes.s3 import ACCESS_KEY, BUCKET, REGION, SECRET, FakeS3
from tests.fixtures.object_keys import new_key

USER, OTHER = UUID(int=1), UUID(int=2)
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
async def fake() -> AsyncIterator[FakeS3]:
    async with FakeS3() as fake:
        yield fake


def bucket(url: str, **changes: Any) -> Bucket:
    values: dict[str, Any] = {
        "url": url,
        "region": REGION,
        "name": BUCKET,
        "access_key_id": SecretStr(ACCESS_KEY),
        "secret_access_key": SecretStr(SECRET),
    }
    return Bucket(**values | changes)


def moto_client(url: str) -> Any:
    return botocore.session.get_session().create_client(
        "s3",
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=Config(s3={"addressing_style": "path"}),
    )


@pytest.fixture(params=["folder", "moto", "supabase"])
async def objects(request: pytest.FixtureRequest, tmp_path: Path, fake: FakeS3, moto: str) -> AsyncIterator[Objects]:
    match request.param:
        case "folder":
            place: Bucket | LocalFolder = LocalFolder(tmp_path / "data" / "files")
        case "moto":
            name = f"test-{uuid4()}"
            configuration = {"LocationConstraint": REGION}
            await asyncio.to_thread(
                moto_client(moto).create_bucket, Bucket=name, CreateBucketConfiguration=configuration
            )
            place = bucket(moto, name=name)
        case _:
            place = bucket(fake.url)
    opened = Objects(place)
    yield opened
    await opened.close()


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def whole(objects: Objects, key: ObjectKey, **options: Any) -> bytes:
    return b"".join([chunk async for chunk in (await objects.get(key, **options)).chunks])


async def keys_of(objects: Objects) -> set[ObjectKey]:
    return {found.key async for found in objects.list_files()}


@pytest.mark.parametrize(
    "chunks",
    [(), (b"",), (b"a small one",), (b"ab", b"", b"c"), (b"x" * 5 * MIB,), (b"x" * 4 * MIB, b"y" * 4 * MIB, b"z" * 9)],
    ids=["nothing", "empty", "small", "several", "one part", "three parts"],
)
async def test_what_was_put_comes_back(objects: Objects, chunks: tuple[bytes, ...]) -> None:
    key, data = new_key(USER, "image/png"), b"".join(chunks)
    assert await objects.put(key, stream(*chunks), max_bytes=20 * MIB) == len(data)
    opened = await objects.get(key)
    assert (opened.size, opened.start, opened.end, opened.content_type) == (len(data), 0, len(data), "image/png")
    assert b"".join([chunk async for chunk in opened.chunks]) == data
    head = await objects.head(key)
    assert (head.key, head.size) == (key, len(data))


@pytest.mark.parametrize(("start", "end"), [(0, 1), (3, 7), (3, None), (9, 10), (0, 10), (5, 1000)])
async def test_a_range_is_exactly_that(objects: Objects, start: int, end: int | None) -> None:
    key = new_key(USER, "text/plain")
    await objects.put(key, stream(b"0123456789"), max_bytes=MIB)
    opened = await objects.get(key, start=start, end=end)
    assert (opened.size, opened.start, opened.end) == (10, start, min(end or 10, 10))
    assert b"".join([chunk async for chunk in opened.chunks]) == b"0123456789"[start:end]


@pytest.mark.parametrize(("start", "end"), [(10, None), (10, 12), (99, None), (3, 3), (4, 3), (-1, None)])
async def test_a_range_that_is_none_is_refused(objects: Objects, start: int, end: int | None) -> None:
    key = new_key(USER, "text/plain")
    await objects.put(key, stream(b"0123456789"), max_bytes=MIB)
    with pytest.raises(Invalid, match="range"):
        await objects.get(key, start=start, end=end)


async def test_what_is_not_there_is_not_found(objects: Objects) -> None:
    for call in (objects.get, objects.head):
        with pytest.raises(NotFound):
            await call(new_key(USER, "image/png"))
    assert await keys_of(objects) == set()


async def test_many_are_deleted_and_gone_is_gone(objects: Objects) -> None:
    keys = [new_key(USER, "text/plain") for _ in range(25)]
    mine, theirs = new_key(USER, "audio/wav"), new_key(OTHER, "audio/wav")
    for key in (*keys, mine, theirs):
        await objects.put(key, stream(b"x"), max_bytes=1)
    await objects.delete([*keys, new_key(USER, "image/png")])
    await objects.delete(keys)
    await objects.delete([])
    assert await keys_of(objects) == {mine, theirs}


@pytest.mark.parametrize("size", [3, 6 * MIB])
async def test_beyond_the_bound_nothing_is_kept(objects: Objects, fake: FakeS3, size: int) -> None:
    with pytest.raises(BodyTooLarge):
        await objects.put(new_key(USER, "image/png"), stream(b"x" * size, b"y"), max_bytes=size)
    assert await keys_of(objects) == set()
    await nothing_unfinished(objects, fake)


@pytest.mark.parametrize("before", [(), (b"x" * 11 * MIB,)], ids=["at once", "in the middle"])
async def test_a_stream_that_breaks_leaves_nothing(objects: Objects, fake: FakeS3, before: tuple[bytes, ...]) -> None:
    async def breaks() -> AsyncIterator[bytes]:
        for chunk in before:
            yield chunk
        raise ConnectionResetError("the client is gone")

    with pytest.raises(ConnectionResetError, match="client is gone"):
        await objects.put(new_key(USER, "image/png"), breaks(), max_bytes=99 * MIB)
    assert await keys_of(objects) == set()
    await nothing_unfinished(objects, fake)


@pytest.mark.parametrize("how", ["cancelled", "closed"])
async def test_an_upload_that_nobody_waits_for_leaves_nothing(objects: Objects, fake: FakeS3, how: str) -> None:
    is_asked_again, never = asyncio.Event(), asyncio.Event()

    async def hangs() -> AsyncIterator[bytes]:
        yield b"x" * 11 * MIB
        is_asked_again.set()
        await never.wait()

    upload = asyncio.create_task(objects.put(new_key(USER, "image/png"), hangs(), max_bytes=99 * MIB))
    await asyncio.wait_for(is_asked_again.wait(), 20)
    if how == "cancelled":
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
    else:
        await objects.close()
        with pytest.raises(Exception, match="stopping"):
            await upload
    assert await keys_of(objects) == set()
    await nothing_unfinished(objects, fake)


async def test_an_upload_that_is_cancelled_when_all_of_it_is_there_leaves_nothing(tmp_path: Path) -> None:
    is_there, go_on = threading.Event(), threading.Event()

    class Settling(LocalFolder):
        def sync(self, _key: ObjectKey, /) -> None:
            is_there.set()
            go_on.wait(20)

    objects = Objects(Settling(tmp_path))
    upload = asyncio.create_task(objects.put(new_key(USER, "image/png"), stream(b"x"), max_bytes=MIB))
    await asyncio.to_thread(is_there.wait, 20)
    upload.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert await keys_of(objects) == set()


NAME = UUID(int=2)
TRAVERSALS = [
    "../secret.png",
    "/etc/passwd",
    f"{USER}/../{NAME}.png",
    f"{USER}/{NAME}.png/..",
    f"{USER}/{NAME}.png\x00",
    f"{USER}/{NAME}.png\n",
    f"{USER}//{NAME}.png",
    f"{USER}/%2e%2e.png",
    f"{USER}\\{NAME}.png",
    f"{USER}/{NAME}.html",
    "",
]


@pytest.mark.parametrize("key", TRAVERSALS)
async def test_no_key_leads_out(objects: Objects, tmp_path: Path, key: str) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    bad = ObjectKey(key)
    calls: list[Callable[[], Any]] = [
        lambda: objects.get(bad),
        lambda: objects.head(bad),
        lambda: objects.delete([bad]),
        lambda: objects.put(bad, stream(b"x"), max_bytes=9),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="key"):
            await call()
    assert (tmp_path / "secret.png").read_bytes() == b"secret"


async def test_check_finds_nothing_wrong_and_changes_nothing(objects: Objects, fake: FakeS3) -> None:
    assert await objects.check() is None
    assert fake.buckets == {BUCKET: {}}
    assert {method for method, _ in fake.calls} <= {"GET"}


async def test_many_at_once_do_not_disturb_each_other(objects: Objects) -> None:
    async def one(number: int) -> bool:
        key, data = new_key(USER, "text/plain"), hashlib.sha256(bytes([number])).digest() * 20_000
        await objects.put(key, stream(data[:300_000], data[300_000:]), max_bytes=MIB)
        return await whole(objects, key) == data

    assert all(await asyncio.gather(*(one(number) for number in range(16))))


async def nothing_unfinished(objects: Objects, fake: FakeS3) -> None:
    """No part of an upload is left, wherever the store keeps such parts."""
    place = objects.location
    if isinstance(place, LocalFolder):
        assert [path for path in place.path.rglob("*") if path.is_file()] == []
    elif isinstance(place, Bucket) and place.url == fake.url:
        assert fake.uploads == {}
    elif isinstance(place, Bucket):
        left = await asyncio.to_thread(moto_client(place.url).list_multipart_uploads, Bucket=place.name)
        assert left.get("Uploads", []) == []


@pytest.mark.parametrize("size", [10, 3 * MIB])
async def test_a_file_in_a_folder_is_on_the_disk_with_its_name_when_it_counts_as_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Asked of the kernel, by whatever was synchronised: the file as it is in the end, and the folders that name it."""
    synced: list[Path] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    key = new_key(USER, "image/png")
    await Objects(LocalFolder(tmp_path)).put(key, stream(bytes(size)), max_bytes=size)
    assert synced == [tmp_path / key, (tmp_path / key).parent, tmp_path]


async def test_a_half_file_in_a_folder_is_removed_when_it_is_old(tmp_path: Path) -> None:
    objects = Objects(LocalFolder(tmp_path))
    halves = [tmp_path / f"{new_key(USER, 'image/png')}#{number}" for number in (1, 2)]
    others = [tmp_path / f"{USER}/note#a", tmp_path / "x#1"]
    for path in (*halves, *others):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    assert await objects.remove_leftovers(older_than=datetime.now(UTC) - timedelta(hours=1)) == 0
    assert await objects.remove_leftovers(older_than=datetime.now(UTC) + timedelta(hours=1)) == 2
    assert [path.exists() for path in (*halves, *others)] == [False, False, True, True]


async def test_a_bucket_keeps_its_halves_to_itself(fake: FakeS3) -> None:
    assert await Objects(bucket(fake.url)).remove_leftovers(older_than=datetime.now(UTC)) == 0
