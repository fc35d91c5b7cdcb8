"""The daily audit: what a crash left in the store goes, and nothing else ever does."""

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from server.errors import Unavailable
from server.files.audit import Audit
from server.files.statements import Statements
from server.storage.objects import key_of
from tests.integration.files import Desk, open_desk

DAY_S = 24 * 3600


@pytest.fixture
async def desk(any_database: str, tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(any_database, tmp_path / "files") as desk:
        yield desk


def _audit(desk: Desk) -> Audit:
    return Audit(Statements(desk.line), desk.objects)


def _lay(desk: Desk, name: str, *, age_s: float) -> str:
    path = desk.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"orphan")
    os.utime(path, (time.time() - age_s,) * 2)
    return name


async def test_an_object_without_a_row_goes_when_it_is_a_day_old(desk: Desk) -> None:
    kept = [desk.key(await desk.upload()) for _ in range(3)]
    for key in kept:
        os.utime(desk.folder / key, (time.time() - 9 * DAY_S,) * 2)
    young = _lay(desk, key_of(desk.user, uuid4(), "image/png"), age_s=0.9 * DAY_S)
    half = _lay(desk, f"{key_of(desk.user, uuid4(), 'image/png')}#1", age_s=0.9 * DAY_S)
    foreign = _lay(desk, "notes.txt", age_s=9 * DAY_S)
    _lay(desk, key_of(desk.user, uuid4(), "image/png"), age_s=1.1 * DAY_S)
    _lay(desk, f"{key_of(desk.user, uuid4(), 'image/png')}#1", age_s=1.1 * DAY_S)
    file_id = UUID(kept[0].split("/")[1].split(".")[0])
    _lay(desk, key_of(uuid4(), file_id, "image/png"), age_s=1.1 * DAY_S)
    await _audit(desk).run()
    assert desk.kept() == {*kept, young, half, foreign}


async def test_the_files_of_another_database_are_left_alone(desk: Desk) -> None:
    """A wrong DATABASE_URL must not cost anybody their files."""
    names = {_lay(desk, key_of(desk.user, uuid4(), "image/png"), age_s=9 * DAY_S) for _ in range(30)}
    await _audit(desk).run()
    assert desk.kept() == names


async def test_a_few_orphans_among_many_files_go(desk: Desk) -> None:
    for _ in range(600):
        file_id = uuid4()
        await desk.connection.execute(
            "INSERT INTO public.files (id, user_id, content_type, state) VALUES ($1, $2, 'image/png', 'kept')",
            file_id,
            desk.user,
        )
        _lay(desk, desk.key(file_id), age_s=9 * DAY_S)
    for _ in range(50):
        _lay(desk, key_of(desk.user, uuid4(), "audio/wav"), age_s=9 * DAY_S)
    await _audit(desk).run()
    assert len(desk.kept()) == 600


async def test_what_a_truncate_left_is_found(desk: Desk) -> None:
    used = await desk.upload()
    await desk.use(used, "completed")
    await desk.reap()
    assert await desk.states() == {used: "kept"}
    await desk.connection.execute("TRUNCATE public.model_requests")
    await _audit(desk).run()
    await desk.reap()
    assert (desk.kept(), await desk.states()) == (set(), {})


async def test_it_comes_once_a_day(desk: Desk) -> None:
    now = [0.0]
    audit = Audit(Statements(desk.line), desk.objects, clock=lambda: now[0])
    runs = []
    for hour in range(100):
        now[0] = 3600.0 * hour
        before = len(desk.wire.sent)
        await audit.run_if_due()
        runs.append(len(desk.wire.sent) > before)
    assert 3 <= sum(runs) <= 5
    assert any(runs[:2])


async def test_a_database_that_is_away_puts_it_off_by_an_hour(desk: Desk) -> None:
    now = [3600.0]
    audit = Audit(Statements(desk.line), desk.objects, clock=lambda: now[0])
    now[0] = 7200.0
    desk.wire.is_cut = True
    with pytest.raises(Unavailable):
        await audit.run_if_due()
    desk.wire.is_cut = False
    sent = len(desk.wire.sent)
    await audit.run_if_due()
    assert len(desk.wire.sent) == sent
    now[0] += 3601
    await audit.run_if_due()
    assert len(desk.wire.sent) > sent
