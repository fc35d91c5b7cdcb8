"""Uploads as inputs: only one's own, only of the right kind, and there when the model reads them."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from server.actors.files import FileGone
from server.encoding import dumps
from server.errors import Invalid, Unavailable
from server.files.input_files import MAX_FILES
from server.inference.protocol.movie_index import move_in_memory
from server.model_request import RequestId
from tests.fakes.media import PNG, SAMPLES, WAV
from tests.integration.files import Desk, image, open_desk, run_of
from tests.rows import add_user

NEW = RequestId(uuid4())


@pytest.fixture
async def desk(any_database: str, tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(any_database, tmp_path / "files") as desk:
        yield desk


async def _refusal(desk: Desk, input_data: bytes) -> list[tuple[str, str]]:
    with pytest.raises(Invalid) as caught:
        await desk.inputs.attach(desk.user, NEW, input_data)
    assert await desk.connection.fetchval("SELECT count(*) FROM public.file_uses") == 0
    return [(error.field, error.message) for error in caught.value.errors]


async def test_input_without_references_asks_nobody(desk: Desk) -> None:
    assert not await desk.inputs.attach(desk.user, NEW, dumps({"prompt": f"file:{uuid4()}"}))


async def test_what_is_not_there_or_not_theirs_is_named_by_its_field(desk: Desk) -> None:
    mine, other = await desk.upload(), await add_user(desk.connection)
    theirs = await desk.upload(user=other)
    none = "there is no such file of yours"
    assert await _refusal(desk, image(mine, theirs)) == [("input_data.images.1.image", none)]
    assert await _refusal(desk, image(uuid4(), uuid4())) == [
        ("input_data.images.0.image", none),
        ("input_data.images.1.image", none),
    ]
    await desk.uploads.delete(desk.user, mine)
    assert await _refusal(desk, image(mine)) == [("input_data.images.0.image", none)]


async def test_a_file_of_another_kind_is_refused(desk: Desk) -> None:
    picture, sound = await desk.upload(PNG), await desk.upload(WAV)
    assert await _refusal(desk, dumps({"image": f"file:{sound}"})) == [
        ("input_data.image", "must be an image file, and this one is audio/wav")
    ]
    assert await _refusal(desk, dumps({"audio": f"file:{picture}"})) == [
        ("input_data.audio", "must be an audio file, and this one is image/png")
    ]


@pytest.mark.parametrize("name", ["mp4", "webm", "m4a", "wav"])
async def test_films_are_taken_for_the_sound_in_them(desk: Desk, name: str) -> None:
    file_id = await desk.upload(SAMPLES[name].data)
    assert await desk.inputs.attach(desk.user, NEW, dumps({"audio": f"file:{file_id}"}))


async def test_a_request_refers_to_no_more_files_than_the_limit(desk: Desk) -> None:
    file_id = await desk.upload()
    assert await desk.inputs.attach(desk.user, NEW, image(*[file_id] * 50))
    [(field, message)] = await _refuse_many(desk)
    assert (field, message) == ("input_data", f"must not refer to more than {MAX_FILES} files")


async def _refuse_many(desk: Desk) -> list[tuple[str, str]]:
    with pytest.raises(Invalid) as caught:
        await desk.inputs.attach(desk.user, NEW, image(*[uuid4() for _ in range(MAX_FILES + 1)]))
    return [(error.field, error.message) for error in caught.value.errors]


async def test_the_model_reads_the_file_as_often_as_it_tries(desk: Desk) -> None:
    file_id = await desk.upload()
    request_id = await desk.use(file_id)
    run = run_of(request_id, desk.user, desk.lease.instance_id, 1, image(file_id, file_id))
    files = await desk.files.inputs(run)
    assert list(files) == [f"file:{file_id}"]
    file = files[f"file:{file_id}"]
    assert (file.content_type, file.size) == ("image/png", len(PNG))
    for _ in range(2):
        assert b"".join([chunk async for chunk in file.open()]) == PNG


@pytest.mark.parametrize("name", ["m4a", "mov", "mov (without a brand)", "mp4 (index first)", "wav"])
async def test_the_model_reads_a_recording_with_its_index_in_front(desk: Desk, name: str) -> None:
    data = SAMPLES[name].data
    file_id = await desk.upload(data)
    run = run_of(NEW, desk.user, desk.lease.instance_id, 1, dumps({"audio": f"file:{file_id}"}))
    [file] = (await desk.files.inputs(run)).values()
    for _ in range(2):
        assert b"".join([chunk async for chunk in file.open()]) == move_in_memory(data)
    assert (move_in_memory(data) != data) == (name in {"m4a", "mov", "mov (without a brand)"})
    assert file.size == len(data)


@pytest.mark.parametrize("name", ["heic", "avif (sequence)"])
async def test_f4_a_picture_that_models_cannot_read_is_refused_with_those_that_they_can(desk: Desk, name: str) -> None:
    file_id = await desk.upload(SAMPLES[name].data)
    [(field, message)] = await _refusal(desk, image(file_id))
    assert field == "input_data.images.0.image"
    kept = SAMPLES[name].content_type
    assert message == f"must be JPEG, PNG, WEBP, GIF, BMP or TIFF: models cannot read {kept}, so convert it first"


async def test_a_file_that_was_deleted_meanwhile_is_said(desk: Desk) -> None:
    file_id = await desk.upload()
    run = run_of(NEW, desk.user, desk.lease.instance_id, 1, image(file_id))
    await desk.uploads.delete(desk.user, file_id)
    with pytest.raises(FileGone, match=f"file:{file_id} was deleted"):
        await desk.files.inputs(run)


async def test_a_file_whose_bytes_are_not_here_is_an_outage(desk: Desk) -> None:
    file_id = await desk.upload()
    run = run_of(NEW, desk.user, desk.lease.instance_id, 1, image(file_id))
    path = desk.folder / desk.key(file_id)
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(Unavailable, match="another server, or was moved"):
        await desk.files.inputs(run)
    path.write_bytes(content)
    assert await desk.files.inputs(run)


async def test_a_database_or_a_store_that_is_away_is_no_missing_file(desk: Desk) -> None:
    file_id = await desk.upload()
    run = run_of(NEW, desk.user, desk.lease.instance_id, 1, image(file_id))
    desk.wire.is_cut = True
    with pytest.raises(Unavailable, match="database"):
        await desk.files.inputs(run)
    desk.wire.is_cut = False
    desk.folder.rename(desk.folder.with_name("elsewhere"))
    desk.folder.write_bytes(b"no folder")
    with pytest.raises(Unavailable, match="storage"):
        await desk.files.inputs(run)
