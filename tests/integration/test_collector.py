"""What becomes of a file: it stays as long as something keeps it, and then goes, object and row, whatever crashed."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from server.errors import Conflict, NotFound, Unavailable
from server.files import collector
from server.inference.events import FileChunk
from server.inference.protocol.file_types import HEAD_BYTES
from server.model_request import InstanceId
from server.storage.objects import ObjectKey
from tests.fakes.media import PNG
from tests.integration.files import Desk, image, open_desk, stream
from tests.rows import add_instance
from tests.signals import until

MIB = 1024 * 1024
_DELETE = "DELETE FROM public.model_requests WHERE id = $1"
_END = "UPDATE public.model_requests SET status = $2, completed_at = now() WHERE id = $1"
_ARRIVING = """
INSERT INTO public.files (id, user_id, owner, content_type, size) VALUES ($1, $2, $3, 'image/png', 1000)
"""


@pytest.fixture
async def desk(any_database: str, tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(any_database, tmp_path / "files") as desk:
        yield desk


async def test_an_upload_that_nobody_uses_goes_after_a_day_and_not_before(desk: Desk) -> None:
    file_id = await desk.upload()
    await desk.reap(later=False)
    assert desk.kept() == {desk.key(file_id)}
    due_in = await desk.connection.fetchval("SELECT due_at - now() FROM public.files")
    assert 23.9 < due_in.total_seconds() / 3600 < 24.1
    await desk.reap()
    assert (desk.kept(), await desk.states()) == (set(), {})


@pytest.mark.parametrize("status", ["pending", "completed", "failed"])
async def test_an_upload_stays_with_its_request_and_goes_with_it(desk: Desk, status: str) -> None:
    file_id = await desk.upload()
    request_id = await desk.use(file_id, status)
    await desk.reap()
    assert (desk.kept(), await desk.states()) == ({desk.key(file_id)}, {file_id: "kept"})
    await desk.connection.execute(_DELETE, request_id)
    assert await desk.states() == {file_id: "deleting"}
    await desk.reap(later=False)
    assert (desk.kept(), await desk.states()) == (set(), {})


async def test_a_file_of_several_requests_goes_with_the_last(desk: Desk) -> None:
    file_id = await desk.upload()
    requests = [await desk.use(file_id, "completed") for _ in range(3)]
    for request_id in requests:
        await desk.reap()
        assert desk.kept() == {desk.key(file_id)}
        await desk.connection.execute(_DELETE, request_id)
    await desk.reap(later=False)
    assert (desk.kept(), await desk.states()) == (set(), {})


async def _somebody_waits(desk: Desk) -> None:
    """Until a statement waits for a lock."""
    await until(lambda: desk.connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))


async def test_a_store_that_hangs_ends_no_reaper(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash again and again would end the process."""
    original, hung = desk.objects.delete, asyncio.Event()

    async def hang(_: Sequence[ObjectKey]) -> None:
        hung.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(collector, "_DELETE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(collector, "CLAIM_S", 0.0)
    monkeypatch.setattr(desk.objects, "delete", hang)
    file_id = await desk.upload()
    await desk.uploads.delete(desk.user, file_id)
    running = asyncio.create_task(desk.collector.run())
    await hung.wait()
    monkeypatch.setattr(desk.objects, "delete", original)

    def is_deleted() -> bool:
        assert not running.done()
        desk.collector.wake()
        return not desk.kept()

    await until(is_deleted)
    running.cancel()
    await asyncio.wait({running})


async def test_two_requests_that_go_at_once_do_not_both_leave_the_file_to_the_other(
    desk: Desk, any_database: str
) -> None:
    file_id = await desk.upload()
    first, second = await desk.use(file_id, "completed"), await desk.use(file_id, "completed")
    other = await asyncpg.connect(any_database)
    try:
        transaction = desk.connection.transaction()
        await transaction.start()
        await desk.connection.execute(_DELETE, first)
        deleting = asyncio.create_task(other.execute(_DELETE, second))
        await _somebody_waits(desk)
        await transaction.commit()
        await deleting
    finally:
        await other.close()
    assert await desk.states() == {file_id: "deleting"}


async def test_an_account_that_goes_by_itself_takes_its_files_with_it(desk: Desk) -> None:
    """As Supabase deletes it: without a word to this server."""
    used, unused = await desk.upload(), await desk.upload()
    await desk.use(used, "completed")
    run = await desk.running()
    outputs = desk.files.outputs(run)
    await outputs.take(FileChunk(PNG, 0, "image/png"))
    await outputs.finish()
    await desk.connection.execute("DELETE FROM auth.users WHERE id = $1", desk.user)
    await desk.reap(later=False)
    assert await desk.states() == {unused: "stored"}
    await desk.reap()
    assert (desk.kept(), await desk.states()) == (set(), {})


async def test_a_create_that_was_refused_keeps_a_file_for_fifteen_minutes_and_no_longer(desk: Desk) -> None:
    file_id, refused = await desk.upload(), uuid4()
    await desk.inputs.attach(desk.user, refused, image(file_id))  # type: ignore[arg-type]
    request_id = await desk.use(file_id, "completed")
    await desk.connection.execute(_DELETE, request_id)
    assert await desk.states() == {file_id: "stored"}, "the other create may still come"
    await desk.reap()
    assert (desk.kept(), await desk.states()) == (set(), {})
    assert await desk.connection.fetchval("SELECT count(*) FROM public.file_uses") == 0


async def test_what_a_refused_create_used_can_be_used_again(desk: Desk) -> None:
    file_id, refused = await desk.upload(), uuid4()
    await desk.inputs.attach(desk.user, refused, image(file_id))  # type: ignore[arg-type]
    await desk.inputs.detach(refused)  # type: ignore[arg-type]
    assert await desk.connection.fetchval("SELECT count(*) FROM public.file_uses") == 0
    request_id = await desk.use(file_id)
    await desk.inputs.detach(request_id)
    assert await desk.connection.fetchval("SELECT count(*) FROM public.file_uses") == 1, "its request is there"


async def test_a_user_cannot_delete_what_an_unfinished_request_uses(desk: Desk) -> None:
    file_id = await desk.upload()
    request_id = await desk.use(file_id)
    with pytest.raises(Conflict):
        await desk.uploads.delete(desk.user, file_id)
    await desk.connection.execute(_END, request_id, "cancelled")
    await desk.uploads.delete(desk.user, file_id)
    with pytest.raises(NotFound):
        await desk.uploads.delete(desk.user, file_id)
    await desk.reap(later=False)
    assert (desk.kept(), await desk.states()) == (set(), {})


async def test_a_file_that_is_being_deleted_cannot_be_used_any_more(desk: Desk, any_database: str) -> None:
    """A create that comes in between waits for the deletion, and then finds nothing."""
    file_id = await desk.upload()
    other = await asyncpg.connect(any_database)
    try:
        transaction = other.transaction()
        await transaction.start()
        assert await other.fetchval("SELECT public.delete_upload($1, $2)", file_id, desk.user)
        attaching = asyncio.create_task(desk.inputs.attach(desk.user, uuid4(), image(file_id)))  # type: ignore[arg-type]
        await _somebody_waits(desk)
        await transaction.commit()
        with pytest.raises(Exception, match="no such file of yours"):
            await attaching
    finally:
        await other.close()


async def test_an_upload_of_a_dead_instance_gives_its_room_back(desk: Desk) -> None:
    dead, alive = await add_instance(desk.connection, lease_s=-60), await add_instance(desk.connection)
    ids = {name: uuid4() for name in ("dead", "alive", "unknown", "here", "forgotten here")}
    owners = {"dead": dead, "alive": alive, "unknown": InstanceId(uuid4())}
    for name, file_id in ids.items():
        owner = owners.get(name, desk.lease.instance_id)
        await desk.connection.execute(_ARRIVING, file_id, desk.user, owner)
    desk.collector.arriving.add(ids["here"])
    await desk.reap()
    assert set(await desk.states()) == {ids["alive"], ids["here"]}


async def test_who_has_no_lease_for_long_judges_no_other(desk: Desk) -> None:
    dead = await add_instance(desk.connection, lease_s=-60)
    await desk.connection.execute(_ARRIVING, file_id := uuid4(), desk.user, dead)
    desk.lease.held_since = None
    await desk.reap()
    assert await desk.states() == {file_id: "arriving"}


async def test_a_run_whose_rows_were_taken_away_leaves_nothing(desk: Desk) -> None:
    run = await desk.running()
    outputs = desk.files.outputs(run)
    await outputs.take(FileChunk(PNG, 0, "image/png"))
    await desk.connection.execute("UPDATE public.model_requests SET epoch = 2 WHERE id = $1", run.id)
    await desk.reap()
    with pytest.raises(Unavailable):
        await outputs.finish()
    await outputs.discard()  # as its generator does
    assert (desk.kept(), await desk.states()) == (set(), {})


async def _output(desk: Desk, *, finishes: bool = True) -> UUID:
    run = await desk.running(epoch=3)
    outputs = desk.files.outputs(run)
    await outputs.take(FileChunk(PNG, 0, "image/png"))
    if finishes:
        await outputs.finish()
    return run.id


@pytest.mark.parametrize(
    ("change", "stays"),
    [
        ("status = 'processing'", True),
        ("status = 'completed', completed_at = now()", True),
        ("status = 'failed', completed_at = now()", False),
        ("status = 'cancelled', completed_at = now()", False),
        ("status = 'pending', owner = NULL", False),
        ("epoch = 4", False),
        ("epoch = 4, status = 'completed', completed_at = now()", False),
    ],
)
async def test_only_the_files_of_the_run_that_completed_a_request_stay(desk: Desk, change: str, *, stays: bool) -> None:
    request_id = await _output(desk)
    await desk.connection.execute(f"UPDATE public.model_requests SET {change} WHERE id = $1", request_id)  # noqa: S608
    await desk.reap()
    assert (len(desk.kept()), len(await desk.states())) == ((1, 1) if stays else (0, 0))
    if stays:
        await desk.connection.execute(_DELETE, request_id)
        await desk.reap(later=False)
        assert (desk.kept(), await desk.states()) == (set(), {})


async def test_a_completed_request_keeps_no_file_that_is_not_whole(desk: Desk) -> None:
    request_id = await _output(desk, finishes=False)
    await desk.connection.execute(_END, request_id, "completed")
    await desk.reap()
    assert await desk.states() == {}


async def test_a_store_that_is_away_leaves_the_row_and_is_tried_again(desk: Desk) -> None:
    ids = [await desk.upload() for _ in range(3)]
    for file_id in ids:
        await desk.uploads.delete(desk.user, file_id)
    desk.folder.chmod(0o000)
    hidden = desk.folder.rename(desk.folder.with_name("elsewhere"))
    desk.folder.write_bytes(b"no folder")
    with pytest.raises(Unavailable):
        await desk.reap(later=False)
    assert set((await desk.states()).values()) == {"deleting"}
    desk.folder.unlink()
    hidden.rename(desk.folder).chmod(0o700)
    await desk.reap()
    assert (desk.kept(), await desk.states()) == (set(), {})


async def test_one_object_that_cannot_be_deleted_does_not_keep_the_others(desk: Desk) -> None:
    ids = [await desk.upload() for _ in range(10)]
    for file_id in ids:
        await desk.uploads.delete(desk.user, file_id)
    stuck = desk.folder / desk.key(ids[0])
    stuck.unlink()
    (stuck / "inside").mkdir(parents=True)  # a folder is no file that could be removed
    for _ in range(30):
        try:
            await desk.reap()
        except Unavailable:
            continue
    assert await desk.states() == {ids[0]: "deleting"}
    (stuck / "inside").rmdir()
    stuck.rmdir()
    await desk.reap()
    assert await desk.states() == {}


@pytest.mark.parametrize("lost", ["claim_due_files", "delete_files"])
async def test_a_reply_that_is_lost_loses_nothing(desk: Desk, lost: str) -> None:
    file_id = await desk.upload()
    await desk.uploads.delete(desk.user, file_id)
    if lost == "claim_due_files":
        desk.wire.lose_replies = 1
    else:
        desk.wire.on_statement = lambda query: setattr(desk.wire, "lose_replies", int(query == "claim_due_files"))
    with pytest.raises(Unavailable, match="database"):
        await desk.reap(later=False)
    desk.wire.lose_replies, desk.wire.on_statement = 0, lambda _: None
    await desk.reap()
    assert (desk.kept(), await desk.states()) == (set(), {})


async def test_bytes_that_come_while_their_row_goes_are_deleted_too(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An account goes in the middle of an upload, whose last bytes come between the deletions of object and row."""
    delete = desk.objects.delete
    has_come, is_deleted = asyncio.Event(), asyncio.Event()

    async def delete_and_wait(keys: Sequence[ObjectKey]) -> None:
        await delete(keys)
        if not is_deleted.is_set():
            is_deleted.set()
            await has_come.wait()

    async def last_bytes() -> AsyncIterator[bytes]:
        yield PNG + bytes(HEAD_BYTES)
        await desk.uploads.delete_all(desk.user)
        reaping.append(asyncio.create_task(desk.reap(later=False)))
        await is_deleted.wait()
        yield bytes(10)

    reaping: list[asyncio.Task[None]] = []
    monkeypatch.setattr(desk.objects, "delete", delete_and_wait)
    with pytest.raises(Unavailable):
        await desk.uploads.take(desk.user, last_bytes(), declared_type="", size=2 * HEAD_BYTES)
    has_come.set()
    await asyncio.gather(*reaping)
    await desk.reap(later=False)  # as it does at once: the upload woke it
    assert (desk.kept(), await desk.states()) == (set(), {})


async def test_two_reapers_at_once_share_the_work(desk: Desk, any_database: str) -> None:
    ids = [await desk.upload() for _ in range(40)]
    for file_id in ids:
        await desk.uploads.delete(desk.user, file_id)
    async with open_desk(any_database, desk.folder) as other:
        await asyncio.gather(desk.reap(later=False), other.reap(later=False))
    assert (desk.kept(), await desk.states()) == (set(), {})


async def test_an_upload_that_fails_leaves_nothing(desk: Desk) -> None:
    async def breaks() -> AsyncIterator[bytes]:
        yield PNG
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await desk.uploads.take(desk.user, breaks(), declared_type="", size=None)
    await desk.reap(later=False)
    assert (desk.kept(), await desk.states()) == (set(), {})
    taking = desk.uploads.take(desk.user, stream(PNG + bytes(MIB), bytes(64 * MIB)), declared_type="", size=None)
    with pytest.raises(Exception, match="at most 64 MB"):
        await taking
    await desk.reap(later=False)
    assert (desk.kept(), await desk.states()) == (set(), {})


async def test_an_upload_whose_row_was_taken_away_is_not_confirmed(desk: Desk) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield PNG + bytes(HEAD_BYTES)
        desk.collector.arriving.clear()  # as for another instance, after this one had no lease
        await desk.reap()
        yield bytes(10)

    with pytest.raises(Unavailable):
        await desk.uploads.take(desk.user, slow(), declared_type="", size=2 * HEAD_BYTES)
    assert (desk.kept(), await desk.states()) == (set(), {})
