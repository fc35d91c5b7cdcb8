"""Creates, deletions and reapers on the same few files: what is used is there, and in the end nothing is left."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest

from server.errors import Conflict, Invalid, NotFound, Unavailable
from server.model_request import mint_id
from server.storage.queries import statements
from tests.fakes.media import PNG
from tests.integration.files import Desk, image, open_desk
from tests.rows import Row, add_row, connected

WORKERS, STEPS, FILES = 6, 60, 3
_INSERT = "INSERT INTO public.model_requests (id, user_id, status) VALUES ($1, $2, 'pending')"
_DELETE = "DELETE FROM public.model_requests WHERE id = $1"
_DELETE_MANY = "DELETE FROM public.model_requests WHERE id = ANY ($1::uuid[])"
_UPLOADS = "SELECT id FROM public.files WHERE user_id = $1 AND request_id IS NULL AND state <> 'deleting'"
_USED = """
SELECT file.state FROM public.file_uses AS use INNER JOIN public.files AS file ON file.id = use.file_id
WHERE use.request_id = $1
"""
_DUE = """
UPDATE public.files SET due_at = due_at - interval '25 hours' WHERE id IN (
    SELECT id FROM public.files WHERE state IN ('stored', 'deleting') FOR UPDATE SKIP LOCKED
)
"""
_AGED = "UPDATE public.file_uses SET created_at = now() - interval '16 min' WHERE request_id = $1"
_DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


@pytest.fixture
async def desk(any_database: str, tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(any_database, tmp_path / "files") as desk:
        yield desk


async def _work(desk: Desk, url: str, shared: list[object], dice: random.Random, counts: dict[str, int]) -> None:
    """A client that uses the shared files in requests, deletes both, replaces what is gone: until all has happened."""
    async with connected(url) as connection:
        for step in count():
            if step >= STEPS and all(counts.values()):
                return
            place = dice.randrange(FILES)
            file_id, request_id = shared[place], mint_id()
            try:
                await desk.inputs.attach(desk.user, request_id, image(file_id))  # type: ignore[arg-type]
            except Invalid:
                counts["refused"] += 1
                shared[place] = await desk.upload()
                continue
            if dice.random() < 0.2:
                counts["never came"] += 1  # the create was refused after that, and could not say so in time
                await connection.execute(_AGED, request_id)
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


async def _reap(desks: tuple[Desk, ...], url: str, is_over: asyncio.Event) -> None:
    """Reapers at once, to whom everything is due all the time.

    It becomes due between their ticks: a file that was put off and is due again, both while one statement looks at it,
    is something that hours apart cannot do.
    """
    async with connected(url) as connection:
        while not is_over.is_set():
            await connection.execute(_DUE)
            await asyncio.gather(*(desk.collector.tick() for desk in desks))
            await asyncio.sleep(0.005)


@asynccontextmanager
async def _reaping(url: str, *desks: Desk) -> AsyncIterator[None]:
    """They end between two ticks: what is cut off in the middle may hold its rows for a moment more."""
    is_over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(_reap(desks, url, is_over))
        try:
            yield
        finally:
            is_over.set()


async def _deadlocks(desk: Desk) -> int:
    """So many there were in this database; a backend tells when it ends, or a second after its last statement."""
    [[count]] = await desk.connection.fetch(_DEADLOCKS)
    return int(count)


@pytest.mark.parametrize("seed", range(3))
async def test_what_is_used_is_there_and_in_the_end_nothing_is_left(
    desk: Desk, any_database: str, tmp_path: Path, seed: int
) -> None:
    shared: list[object] = [await desk.upload(PNG) for _ in range(FILES)]
    counts = dict.fromkeys(("refused", "never came", "kept from deletion", "ran"), 0)
    async with open_desk(any_database, tmp_path / "files") as other, _reaping(any_database, desk, other):
        await asyncio.gather(
            *(
                _work(desk, any_database, shared, random.Random(100 * seed + number), counts)  # noqa: S311 - dice
                for number in range(WORKERS)
            )
        )
    await desk.reap()
    assert (desk.kept(), await desk.states()) == (set(), {}), counts


async def _churn(desk: Desk, url: str, dice: random.Random) -> None:
    """Requests with several inputs and outputs, whose files are handled in any order, deleted many at a time."""
    async with connected(url) as deletes, connected(url) as stores, connected(url) as discards:
        for _ in range(STEPS // 2):
            with contextlib.suppress(Unavailable):  # its user's files were forgotten meanwhile
                await desk.upload()
            uploads = [row["id"] for row in await deletes.fetch(_UPLOADS, desk.user)]
            runs = [await add_row(deletes, desk.user, Row("processing", owner=mint_id(), epoch=1)) for _ in range(2)]
            made = [mint_id() for _ in range(2 * FILES)]
            for place, file_id in enumerate(made):
                run, number = runs[place % 2], place // 2
                await deletes.execute(statements()["begin_output"], file_id, run, 1, number, "image/png")
            for run in runs:
                with contextlib.suppress(Invalid):
                    await desk.inputs.attach(desk.user, run, image(*dice.sample(uploads, min(len(uploads), 8))))
            dice.shuffle(made)
            await asyncio.gather(
                deletes.execute(_DELETE_MANY, runs),
                stores.execute(statements()["store_outputs"], made, [1] * len(made)),
                discards.execute(statements()["discard_files"], made[::-1] + uploads[-2:]),
                *([desk.uploads.delete_all(desk.user)] if dice.random() < 0.3 else []),
            )


async def test_whoever_handles_many_files_at_once_waits_for_others_and_never_in_a_circle(
    desk: Desk, any_database: str, tmp_path: Path
) -> None:
    """A deletion of a request, or of an account, has nobody who would try it again."""
    async with open_desk(any_database, tmp_path / "files") as other:
        other.user = desk.user
        async with _reaping(any_database, desk, other):
            await asyncio.gather(
                *(
                    _churn(each, any_database, random.Random(number))  # noqa: S311 - dice
                    for number, each in enumerate([desk, other] * (WORKERS // 2))
                )
            )
    await desk.reap()
    assert (desk.kept(), await desk.states()) == (set(), {})
    assert await _deadlocks(desk) == 0
