"""Creates, deletions and reapers on the same few files: what is used is there, and in the end nothing is left."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.errors import Conflict, Invalid, NotFound
from server.model_request import mint_id
from tests.fakes.media import PNG
from tests.integration.files import Desk, image, open_desk
from tests.rows import connected

WORKERS, STEPS, FILES = 6, 60, 3
_INSERT = "INSERT INTO public.model_requests (id, user_id, status) VALUES ($1, $2, 'pending')"
_DELETE = "DELETE FROM public.model_requests WHERE id = $1"
_USED = """
SELECT file.state FROM public.file_uses AS use INNER JOIN public.files AS file ON file.id = use.file_id
WHERE use.request_id = $1
"""
_DUE = "UPDATE public.files SET due_at = due_at - interval '25 hours' WHERE state IN ('stored', 'deleting')"


@pytest.fixture
async def desk(any_database: str, tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(any_database, tmp_path / "files") as desk:
        yield desk


async def _work(desk: Desk, url: str, shared: list[object], dice: random.Random, counts: dict[str, int]) -> None:
    """A user's client: uses the shared files in requests, deletes both, and replaces what is gone."""
    async with connected(url) as connection:
        for _ in range(STEPS):
            place = dice.randrange(FILES)
            file_id, request_id = shared[place], mint_id()
            try:
                await desk.inputs.attach(desk.user, request_id, image(file_id))  # type: ignore[arg-type]
            except Invalid:
                counts["refused"] += 1
                shared[place] = await desk.upload()
                continue
            if dice.random() < 0.2:
                counts["never came"] += 1  # the create was refused after that
                continue
            await connection.execute(_INSERT, request_id, desk.user)
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)
                if dice.random() < 0.3:
                    try:
                        await desk.uploads.delete(desk.user, file_id)  # type: ignore[arg-type]
                    except (Conflict, NotFound):
                        counts["kept from deletion"] += 1
                    else:
                        raise AssertionError("a file was deleted that an unfinished request uses")
            [[state]] = await connection.fetch(_USED, request_id)
            assert state in {"stored", "kept"}, "its request is there"
            await connection.execute(_DELETE, request_id)
            counts["ran"] += 1


async def _reap(desk: Desk, url: str) -> None:
    """A reaper to whom everything is due all the time."""
    async with connected(url) as connection:
        while True:
            await connection.execute(_DUE)
            await desk.reaper.tick()
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("seed", range(3))
async def test_what_is_used_is_there_and_in_the_end_nothing_is_left(
    desk: Desk, any_database: str, tmp_path: Path, seed: int
) -> None:
    shared: list[object] = [await desk.upload(PNG) for _ in range(FILES)]
    counts = dict.fromkeys(("refused", "never came", "kept from deletion", "ran"), 0)
    async with open_desk(any_database, tmp_path / "files") as other:
        reapers = [asyncio.create_task(_reap(each, any_database)) for each in (desk, other)]
        try:
            await asyncio.gather(
                *(
                    _work(desk, any_database, shared, random.Random(100 * seed + number), counts)  # noqa: S311 - dice
                    for number in range(WORKERS)
                )
            )
        finally:
            for reaper in reapers:
                reaper.cancel()
            ended = await asyncio.gather(*reapers, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended
    assert min(counts.values()) > 0, counts
    await desk.reap()
    assert (desk.kept(), await desk.states()) == (set(), {}), counts
