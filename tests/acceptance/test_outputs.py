"""What a model makes, on its way to the store: whatever happens in the middle, nothing of it stays that nobody has."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from server.actors.journal import Journal
from server.http import keys
from server.storage.queries import statements
from tests.acceptance.conftest import Api, Reply, Start, events_of
from tests.acceptance.test_cancel import cancel, online_settings
from tests.acceptance.test_files import fetch, stored, until_nothing_is_stored
from tests.acceptance.test_supabase_auth import settings_of
from tests.fakes.event_source import final_of
from tests.fakes.gotrue import serve_gotrue
from tests.fakes.huggingface import Answer, End, FakeHuggingFace, json_answer
from tests.fakes.media import PNG
from tests.fakes.s3 import ACCESS_KEY, BUCKET, REGION, SECRET, FakeS3, error_answer
from tests.signals import until
from tests.supabase import Project

MIB = 1024 * 1024
PICTURE = Answer(headers={"Content-Type": "image/png"}, pieces=(PNG, *(bytes([number]) * MIB for number in range(12))))
HALF = dataclasses.replace(PICTURE, pieces=PICTURE.pieces[:9], end=End.STALL)
DRAW = {"model_type": "text-to-image", "input_data": {"prompt": "a cat"}}
ALL_DUE = "UPDATE public.files SET due_at = now() - interval '1 s'"
RUN_NOW = "UPDATE public.model_requests SET run_at = now() WHERE status = 'pending'"


@pytest.fixture
async def upstream() -> AsyncIterator[FakeHuggingFace]:
    async with FakeHuggingFace(default=lambda _: PICTURE) as fake:
        yield fake


@pytest.fixture
async def fake() -> AsyncIterator[FakeS3]:
    async with FakeS3() as fake:
        yield fake


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, fake: FakeS3, tmp_path: Path) -> dict[str, Any]:
    bucket = {
        "storage_url": fake.url,
        "storage_region": REGION,
        "storage_bucket": BUCKET,
        "storage_access_key_id": ACCESS_KEY,
        "storage_secret_access_key": SECRET,
    }
    return {"data_dir": tmp_path, **(bucket if request.param == "bucket" else {})}


@pytest.fixture
async def api(start: Start, upstream: FakeHuggingFace, place: dict[str, Any]) -> Api:
    return await (await start(**online_settings(upstream), **place)).sign_up()


async def draw(api: Api, *, prefer: str = "respond-async", deadline_s: int = 100) -> Reply:
    return await api.post("/api/requests", DRAW | {"deadline_s": deadline_s}, headers={"Prefer": prefer})


async def middle(api: Api, fake: FakeS3, database: str) -> None:
    """Until bytes of a file are in the store that is not there yet."""

    async def holds() -> bool:
        if api.app[keys.SETTINGS].storage_url is not None:
            return any(parts for _, _, parts in fake.uploads.values())
        return any(path.stat().st_size for path in api.app[keys.SETTINGS].data_dir.glob("files/*/*#*"))

    await until(holds)
    assert [row["state"] for row in await fetch(database, "SELECT state FROM public.files")] == ["arriving"]


def leftovers(api: Api, fake: FakeS3) -> list[Any]:
    """Halves of files, which no listing shows."""
    return [*fake.uploads, *api.app[keys.SETTINGS].data_dir.glob("files/*/*#*")]


async def test_a_picture_is_there_when_its_request_is(api: Api, fake: FakeS3) -> None:
    reply = await draw(api, prefer="wait=20")
    [file] = reply.json["output_data"]["files"]
    assert (reply.json["status"], file["size"]) == ("completed", len(PICTURE.body))
    assert (await api.get(file["url"])).body == PICTURE.body
    part = await api.get(file["url"], headers={"Range": "bytes=5-8388607"})
    assert (part.status, part.body == PICTURE.body[5:8388608]) == (206, True)
    tail = await api.get(file["url"], headers={"Range": "bytes=-7"})
    assert (tail.status, tail.body) == (206, PICTURE.body[-7:])
    assert (await api.get(file["url"], headers={"Range": f"bytes={len(PICTURE.body)}-"})).status == 416
    assert (await (await api.sign_up()).get(file["url"])).status == 404
    assert leftovers(api, fake) == []


@pytest.mark.parametrize("how", ["cancelled", "deleted", "deleted with the account", "past its deadline"])
async def test_a_run_that_ends_in_the_middle_of_a_file_leaves_nothing(
    api: Api, upstream: FakeHuggingFace, fake: FakeS3, database: str, how: str
) -> None:
    upstream.answer(HALF)
    item = (await draw(api, deadline_s=2 if how == "past its deadline" else 100)).json
    path = f"/api/requests/{item['id']}"
    async with events_of(api, f"{path}/events") as source:
        await middle(api, fake, database)
        started = asyncio.get_running_loop().time()
        if how == "cancelled":
            assert (await cancel(api, item["id"])).json["status"] == "cancelled"
        elif how == "deleted":
            assert (await api.send("DELETE", path)).status == 204
        elif how == "deleted with the account":
            assert (await api.send("DELETE", "/auth/user")).status == 204
        await upstream.abandoned.wait()
        if how != "deleted with the account":
            final = final_of(await source.all())
            assert final.name == ("failed" if how == "past its deadline" else "cancelled")
        took_s = asyncio.get_running_loop().time() - started
    assert took_s < 5
    await until_nothing_is_stored(api, database)
    assert leftovers(api, fake) == []
    if how == "past its deadline":
        assert (await api.get(path)).json["error_code"] == "MODEL_ERROR"


async def test_a_store_that_is_away_is_an_outage_and_no_failure(
    api: Api, fake: FakeS3, database: str, tmp_path: Path
) -> None:
    """The request goes back to the backlog, says why, and completes when the store is back."""
    folder = tmp_path / "files"

    async def refuse(_: object) -> Any:
        return error_answer(403, "AccessDenied", "no")

    if api.app[keys.SETTINGS].storage_url is not None:
        fake.fault = refuse
    else:
        folder.rename(tmp_path / "moved")
        folder.write_bytes(b"no folder")
    item = (await draw(api)).json
    path = f"/api/requests/{item['id']}"

    async def is_put_off() -> bool:
        rows = await fetch(database, "SELECT status, error_msg FROM public.model_requests")
        return [tuple(row) for row in rows] == [("pending", "The storage is not available; try again.")]

    await until(is_put_off)
    shown = (await api.get(path)).json
    assert (shown["status"], shown["output_data"]) == ("pending", None)
    fake.fault = None
    if folder.is_file():
        folder.unlink()
    await fetch(database, RUN_NOW)
    [file] = (await api.get(f"{path}?wait=20")).json["output_data"]["files"]
    assert (await api.get(file["url"])).body == PICTURE.body
    await fetch(database, ALL_DUE)
    await api.app[keys.ENGINE].collector.tick()
    assert len(await stored(api)) == 1
    assert [row["state"] for row in await fetch(database, "SELECT state FROM public.files")] == ["kept"]


@pytest.mark.parametrize("place", ["bucket"], indirect=True)
@pytest.mark.parametrize("how", ["cancelled", "past its deadline"])
async def test_a_store_that_hangs_holds_back_no_end(
    api: Api, upstream: FakeHuggingFace, fake: FakeS3, database: str, how: str
) -> None:
    """Who cancels is told at once, whatever the store does; what is in it goes later."""
    go, hangs = asyncio.Event(), asyncio.Event()

    async def hang(request: Any) -> None:
        if request.method == "PUT":
            hangs.set()
            await go.wait()

    fake.fault = hang
    item = (await draw(api, deadline_s=2 if how == "past its deadline" else 100)).json
    async with asyncio.timeout(10):
        await hangs.wait()
    started = asyncio.get_running_loop().time()
    if how == "cancelled":
        await cancel(api, item["id"])
    async with asyncio.timeout(30):
        final = (await api.get(f"/api/requests/{item['id']}?wait=25")).json
    took_s = asyncio.get_running_loop().time() - started
    go.set()
    assert (final["status"], final["error_msg"]) == (
        ("cancelled", None)
        if how == "cancelled"
        else ("failed", "Not finished by its deadline: the storage for files was too slow.")
    )
    assert took_s < 6
    await fetch(database, ALL_DUE)
    await until_nothing_is_stored(api, database)


@pytest.mark.parametrize("place", ["bucket"], indirect=True)
async def test_a_store_that_fails_while_the_model_reads_is_an_outage_too(
    api: Api, upstream: FakeHuggingFace, fake: FakeS3, database: str
) -> None:
    upload = (await api.post("/api/files", data=PNG, headers={"Content-Type": "image/png"})).json["id"]

    async def refuse(request: Any) -> Any:
        return error_answer(403, "AccessDenied", "no") if request.method == "GET" else None

    fake.fault = refuse
    upstream.default = lambda _: json_answer([{"label": "cat", "score": 1.0}])
    body = {"model_type": "image-classification", "input_data": {"image": f"file:{upload}"}}
    item = (await api.post("/api/requests", body, headers={"Prefer": "respond-async"})).json

    async def is_put_off() -> bool:
        rows = await fetch(database, "SELECT status, error_msg FROM public.model_requests")
        return [row["status"] for row in rows] == ["pending"]

    await until(is_put_off)
    fake.fault = None
    await fetch(database, RUN_NOW)
    shown = (await api.get(f"/api/requests/{item['id']}?wait=20")).json
    assert (shown["status"], PNG in upstream.calls[-1].raw) == ("completed", True)


async def test_an_input_cannot_be_deleted_while_its_request_waits_or_runs(
    api: Api, upstream: FakeHuggingFace, database: str
) -> None:
    upload = (await api.post("/api/files", data=PNG, headers={"Content-Type": "image/png"})).json["id"]
    upstream.answer(Answer(is_silent=True, end=End.STALL))
    body = {"model_type": "image-classification", "input_data": {"image": f"file:{upload}"}}
    item = (await api.post("/api/requests", body, headers={"Prefer": "respond-async"})).json
    await upstream.called.wait()
    assert (await api.send("DELETE", f"/api/files/{upload}")).status == 409
    assert (await cancel(api, item["id"])).json["status"] == "cancelled"
    assert (await api.send("DELETE", f"/api/files/{upload}")).status == 204
    await until_nothing_is_stored(api, database)


async def test_a_file_of_a_request_that_was_stored_although_its_client_was_told_otherwise_cannot_be_deleted(
    api: Api, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database took longer than a create waits; then the row is there, and is run."""
    upload = (await api.post("/api/files", data=PNG, headers={"Content-Type": "image/png"})).json["id"]
    write, go = Journal._write_accepts, asyncio.Event()

    async def write_late(journal: Journal, entries: Any) -> None:
        await go.wait()
        await write(journal, entries)

    monkeypatch.setattr(Journal, "_write_accepts", write_late)
    monkeypatch.setattr("server.actors.journal.ACCEPT_TIMEOUT_S", 0.1)
    body = {"model_type": "image-classification", "input_data": {"image": f"file:{upload}"}}
    assert (await api.post("/api/requests", body)).status == 503
    go.set()

    async def is_stored() -> bool:
        return bool(await fetch(database, "SELECT FROM public.model_requests WHERE status = 'processing'"))

    await until(is_stored)
    assert (await api.send("DELETE", f"/api/files/{upload}")).status == 409
    await fetch(database, "DELETE FROM public.model_requests")
    api.app[keys.ENGINE].collector.wake()
    await until_nothing_is_stored(api, database)


async def test_an_account_that_goes_while_its_request_reads_a_file_takes_the_file_along(
    api: Api, upstream: FakeHuggingFace, database: str
) -> None:
    upload = (await api.post("/api/files", data=PNG, headers={"Content-Type": "image/png"})).json["id"]
    upstream.answer(Answer(is_silent=True, end=End.STALL))
    body = {"model_type": "image-classification", "input_data": {"image": f"file:{upload}"}}
    await api.post("/api/requests", body, headers={"Prefer": "respond-async"})
    await upstream.called.wait()
    assert (await api.send("DELETE", "/auth/user")).status == 204
    await until_nothing_is_stored(api, database)
    assert await fetch(database, "SELECT FROM public.file_uses") == []


async def test_retention_takes_files_along(api: Api, database: str) -> None:
    await draw(api, prefer="wait=20")
    assert len(await stored(api)) == 1
    assert len(await fetch(database, statements()["purge_requests"], UUID(int=2**128 - 1), 100)) == 1
    api.app[keys.ENGINE].collector.wake()
    await until_nothing_is_stored(api, database)


@pytest.mark.parametrize("place", ["bucket"], indirect=True)
@pytest.mark.parametrize("by", ["its owner", "the project's dashboard"])
async def test_an_account_of_a_project_takes_its_files_along(
    start: Start, project: Project, upstream: FakeHuggingFace, place: dict[str, Any], by: str
) -> None:
    async with serve_gotrue(project.url) as gotrue:
        api = await (await start(**settings_of(project, gotrue), **online_settings(upstream), **place)).sign_up()
        upload = (await api.post("/api/files", data=PNG, headers={"Content-Type": "image/png"})).json["id"]
        upstream.answer(json_answer([{"label": "cat", "score": 1.0}]))
        body = {"model_type": "image-classification", "input_data": {"image": f"file:{upload}"}}
        used = await api.post("/api/requests", body, headers={"Prefer": "wait=20"})
        drawn = await draw(api, prefer="wait=20")
        assert (used.json["status"], drawn.json["status"]) == ("completed", "completed")
        assert len(await stored(api)) == 2
        if by == "its owner":
            assert (await api.send("DELETE", "/auth/user")).status == 204
        else:
            async with project.connected(is_admin=True) as connection:
                await connection.execute("SET ROLE supabase_auth_admin")  # as which Supabase Auth works
                await connection.execute("DELETE FROM auth.users WHERE id = $1", api.user_id)
            api.app[keys.ENGINE].collector.wake()
        await until_nothing_is_stored(api, project.url)
