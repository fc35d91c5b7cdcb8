"""The embedded Postgres and its server killed at any moment: the next start finds the data."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from server.storage.embedded.postgres import EmbeddedPostgres
from tests.integration.embedded.surroundings import holding, names_in, pids_in, query, recall, start_holder
from tests.signals import until


async def test_a_killed_postmaster_is_started_again_under_the_same_url(data_dir: Path) -> None:
    pauses: list[float] = []

    async def no_pause(seconds: float) -> None:
        pauses.append(seconds)

    async with EmbeddedPostgres(data_dir, sleep=no_pause) as postgres:
        for _ in range(2):
            assert postgres.pid is not None
            os.kill(postgres.pid, signal.SIGKILL)
            assert await _recall_patiently(postgres.url) == 42
    assert pauses == [0, 0.5]


async def _recall_patiently(url: str) -> Any:
    """Connect as a client does, repeatedly until Postgres accepts the connection."""

    async def answer() -> Any:
        try:
            return await recall(url)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return None

    return await until(answer)


async def test_the_postmaster_of_a_killed_server_is_replaced(own_data_dir: Path) -> None:
    async with holding(own_data_dir) as holder:
        await query(holder.url, "UPDATE kept SET answer = 43")
        await holder.kill()
        assert holder.postmaster in pids_in(own_data_dir)
        async with EmbeddedPostgres(own_data_dir) as postgres:
            assert postgres.pid in pids_in(own_data_dir)
            assert holder.postmaster not in pids_in(own_data_dir)
            assert await recall(postgres.url) == 43


async def test_server_and_postmaster_killed_while_a_backend_is_busy(data_dir: Path) -> None:
    """A busy backend outlives its postmaster. Postgres refuses to start while it runs."""
    async with holding(data_dir) as holder:
        connection = await asyncpg.connect(holder.url)
        busy = asyncio.create_task(connection.fetch("SELECT count(*) FROM generate_series(1, 1000000000000)"))
        backend = psutil.Process(connection.get_server_pid())
        await until(lambda: backend.cpu_times().user > 0.05)
        await holder.kill()
        os.kill(holder.postmaster, signal.SIGKILL)
        async with EmbeddedPostgres(data_dir) as postgres:
            assert await recall(postgres.url) == 42
            assert backend.pid not in pids_in(data_dir)
        connection.terminate()
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await busy


async def test_a_stale_pid_file_whose_number_belongs_to_somebody_else(data_dir: Path) -> None:
    """A restarted container reuses process ids: another process may have that of the old postmaster."""
    somebody = await asyncio.create_subprocess_exec("sleep", "60")
    for lock in ("data/postmaster.pid", ".s.PGSQL.5432.lock"):
        (data_dir / "postgres" / lock).write_text(f"{somebody.pid}\n/elsewhere\n0\n5432\n")
    try:
        async with EmbeddedPostgres(data_dir) as postgres:
            assert await recall(postgres.url) == 42
        assert somebody.returncode is None
    finally:
        somebody.kill()
        await somebody.wait()


async def test_a_kill_in_the_middle_of_initdb_leaves_nothing_half_made(tmp_path: Path) -> None:
    server = await start_holder(tmp_path)
    await until(lambda: any(tmp_path.glob("postgres.draft-*/data/global/pg_control")))
    assert "postgres" not in names_in(tmp_path)
    server.kill()
    await server.communicate()
    for _ in range(2):  # the initdb that is left may still write when the first start clears up
        async with EmbeddedPostgres(tmp_path) as postgres:
            assert await query(postgres.url, "SELECT 1") == 1
    assert names_in(tmp_path) == {"lock", "postgres"}


async def test_a_cancelled_start_leaves_no_process_and_no_lock(data_dir: Path) -> None:
    starting = asyncio.create_task(EmbeddedPostgres(data_dir).__aenter__())
    await until(lambda: pids_in(data_dir) != set())
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert pids_in(data_dir) == set()
    async with EmbeddedPostgres(data_dir) as postgres:
        assert await recall(postgres.url) == 42
