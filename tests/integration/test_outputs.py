"""Files that a model makes: stored as they come, bounded in memory, whole or not at all."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from server.errors import BodyTooLarge, Problem, Unavailable
from server.files.output_files import MAX_OUTPUTS, StoredOutputs
from server.files.statements import Statements
from server.inference.events import FileChunk
from server.storage.objects import Objects
from tests.fakes.media import PNG, WAV
from tests.integration.files import Desk, open_desk
from tests.signals import until


@pytest.fixture
async def desk(any_database: str, tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(any_database, tmp_path / "files") as desk:
        yield desk


async def _make(outputs: StoredOutputs, *chunks: FileChunk) -> None:
    for chunk in chunks:
        await outputs.take(chunk)
    await outputs.finish()


async def test_files_come_one_after_the_other_in_pieces(desk: Desk) -> None:
    run = await desk.running()
    outputs = desk.files.outputs(run)
    for number, data in enumerate((PNG, WAV)):
        for start in range(0, len(data), 20):
            await outputs.take(FileChunk(data[start : start + 20], number, "application/octet-stream"))
    assert await outputs.finish() == [
        {
            "number": 0,
            "content_type": "image/png",
            "size": len(PNG),
            "url": f"/api/requests/{run.id}/files/0",
        },
        {
            "number": 1,
            "content_type": "audio/wav",
            "size": len(WAV),
            "url": f"/api/requests/{run.id}/files/1",
        },
    ]
    assert sorted((desk.folder / key).read_bytes() for key in desk.kept()) == sorted([PNG, WAV])
    rows = await desk.connection.fetch("SELECT * FROM public.files ORDER BY number")
    assert [(row["request_id"], row["epoch"], row["number"], row["size"]) for row in rows] == [
        (run.id, 1, 0, len(PNG)),
        (run.id, 1, 1, len(WAV)),
    ]


async def test_a_run_without_files_costs_nothing(desk: Desk) -> None:
    run = await desk.running()
    outputs = desk.files.outputs(run)
    assert await outputs.finish() == []
    await outputs.discard()
    assert await desk.files.inputs(run) == {}
    assert desk.wire.sent == []


async def test_the_row_is_there_before_the_bytes(desk: Desk) -> None:
    outputs = desk.files.outputs(await desk.running())
    seen: list[set[str]] = []
    desk.wire.on_statement = lambda query: seen.append(desk.kept())
    await outputs.take(FileChunk(PNG, 0, "image/png"))
    await outputs.finish()
    assert seen[0] == set()
    assert [sent.query for sent in desk.wire.sent] == ["begin_output", "store_outputs"]


@pytest.mark.parametrize("after", [0, 1, 30])
async def test_what_is_discarded_leaves_nothing(desk: Desk, after: int) -> None:
    outputs = desk.files.outputs(await desk.running())
    for _ in range(after):
        await outputs.take(FileChunk(PNG + bytes(1_000_000), 0, "image/png"))
    await outputs.discard()
    await desk.reap(later=False)
    assert (desk.kept(), await desk.states()) == (set(), {})


async def test_a_run_that_another_instance_took_over_stores_nothing(desk: Desk) -> None:
    run = await desk.running(epoch=1)
    await desk.connection.execute("UPDATE public.model_requests SET epoch = 2 WHERE id = $1", run.id)
    outputs = desk.files.outputs(run)
    with pytest.raises(Unavailable):
        await outputs.take(FileChunk(PNG, 0, "image/png"))
    await outputs.discard()
    assert (desk.kept(), await desk.states()) == (set(), {})


async def test_a_file_that_is_too_large_ends_the_run(desk: Desk) -> None:
    statements = Statements(desk.line)
    run = await desk.running()
    outputs = StoredOutputs(run, statements, desk.objects, wake=lambda: None, max_bytes=1000)
    with pytest.raises(BodyTooLarge):
        await _make(outputs, *[FileChunk(bytes(100), 0, "image/png")] * 100)
    await outputs.discard()
    await desk.reap(later=False)
    assert (desk.kept(), await desk.states()) == (set(), {})


async def test_too_many_files_end_the_run(desk: Desk) -> None:
    outputs = desk.files.outputs(await desk.running())
    with pytest.raises(BodyTooLarge, match="more than 100 files"):
        await _make(outputs, *(FileChunk(PNG, number, "image/png") for number in range(MAX_OUTPUTS + 1)))
    await outputs.discard()
    await desk.reap(later=False)
    assert (desk.kept(), await desk.states()) == (set(), {})


class Slow(Objects):
    """A store that takes nothing until it is told to, or fails then."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.go = asyncio.Event()
        self.failure: Problem | None = None

    async def put(self, key: Any, chunks: Any, *, max_bytes: int) -> int:
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        return await super().put(key, chunks, max_bytes=max_bytes)


async def _fill(outputs: StoredOutputs, taken: list[int]) -> None:
    for number in range(50):
        await outputs.take(FileChunk(bytes(1000), 0, "image/png"))
        taken.append(number)


async def _turns() -> None:
    for _ in range(200):
        await asyncio.sleep(0)


async def _slow(desk: Desk) -> tuple[Slow, StoredOutputs, list[int], "asyncio.Task[None]"]:
    """A run whose model is faster than its store, at the moment where it has to wait."""
    slow = Slow(desk.objects.location)
    outputs = StoredOutputs(await desk.running(), Statements(desk.line), slow, wake=lambda: None)
    taken: list[int] = []
    filling = asyncio.create_task(_fill(outputs, taken))
    await desk.wire.wait_sent(1)
    await until(lambda: taken)
    await _turns()
    return slow, outputs, taken, filling


async def test_a_slow_store_makes_the_model_wait(desk: Desk) -> None:
    slow, outputs, taken, filling = await _slow(desk)
    assert len(taken) <= 5
    assert not filling.done()
    slow.go.set()
    await filling
    [file] = await outputs.finish()
    assert file["size"] == 50_000


async def test_a_store_that_fails_wakes_who_waits_for_it(desk: Desk) -> None:
    slow, outputs, _, filling = await _slow(desk)
    slow.failure = Unavailable("The storage is not available; try again.", retry_after_s=1)
    slow.go.set()
    with pytest.raises(Unavailable, match="storage"):
        await filling
    await outputs.discard()
    await desk.reap(later=False)
    assert (desk.kept(), await desk.states()) == (set(), {})


async def test_a_run_that_is_cancelled_while_it_waits_leaves_nothing(desk: Desk) -> None:
    _, outputs, _, filling = await _slow(desk)
    filling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await filling
    await outputs.discard()
    await desk.reap(later=False)
    assert (desk.kept(), await desk.states()) == (set(), {})


async def test_a_database_that_is_away_is_said_and_what_was_stored_goes_later(desk: Desk) -> None:
    outputs = desk.files.outputs(await desk.running())
    await outputs.take(FileChunk(PNG, 0, "image/png"))
    desk.wire.is_cut = True
    with pytest.raises(Unavailable, match="database"):
        await outputs.finish()
    desk.wire.is_cut = False
    await desk.connection.execute("UPDATE public.model_requests SET status = 'failed', completed_at = now()")
    await desk.reap()
    assert (desk.kept(), await desk.states()) == (set(), {})
