"""The embedded Postgres from outside: its processes, its folders, and what it refuses."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from server.storage.embedded.os_user import choose_os_user
from server.storage.embedded.postgres import Binaries, EmbeddedPostgres, EmbeddedPostgresError
from server.storage.embedded.process import processes_on

IS_ROOT = os.geteuid() == 0
ROOT = Path(__file__).parents[3]

as_root = pytest.mark.skipif(not IS_ROOT, reason="only root can become another user or mount a disk")


async def query(url: str, statement: str) -> Any:
    """The first value of a statement on a connection of its own, terminated whatever comes."""
    connection = await asyncpg.connect(url, timeout=5)
    try:
        return await connection.fetchval(statement)
    finally:
        connection.terminate()


async def remember(url: str) -> None:
    await query(url, "CREATE TABLE kept AS SELECT 42 AS answer")


async def recall(url: str) -> Any:
    return await query(url, "SELECT answer FROM kept")


def pids_in(data_dir: Path) -> set[int]:
    """The Postgres processes that work on this folder."""
    home = data_dir.resolve() / "postgres"
    return set(processes_on(home / "data", choose_os_user(home, Binaries.find()))) if home.exists() else set()


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@dataclass(frozen=True, slots=True)
class Holder:
    """A process like the server, which holds an embedded Postgres."""

    process: asyncio.subprocess.Process
    url: str
    postmaster: int
    uid: int

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


async def start_holder(data_dir: Path, *prefix: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *prefix,
        *(sys.executable, "-m", "tests.hold_postgres", str(data_dir)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@asynccontextmanager
async def holding(data_dir: Path, *prefix: str) -> AsyncIterator[Holder]:
    """A holder that is ready; stopped in the end, unless it is dead already."""
    process = await start_holder(data_dir, *prefix)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            ready = await process.stdout.readline()
            if not ready:
                _, said = await process.communicate()
                pytest.fail(said.decode())
        yield Holder(process, **json.loads(ready))
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(20):
            await process.communicate()


async def refusal(data_dir: Path, **options: Any) -> str:
    """The one line that a start ends with."""
    with pytest.raises(EmbeddedPostgresError) as caught:
        async with EmbeddedPostgres(data_dir, **options):
            pass
    assert "\n" not in caught.value.message
    return caught.value.message


@contextmanager
def moved(folder: Path, elsewhere: Path) -> Iterator[Path]:
    """A folder under another path, for a while."""
    folder.rename(elsewhere)
    try:
        yield elsewhere
    finally:
        elsewhere.rename(folder)


@contextmanager
def reachable_folder() -> Iterator[Path]:
    """A folder that other users can get to; pytest's own are below a private one."""
    folder = Path(tempfile.mkdtemp(prefix="reachable-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A disk of its own at `path`."""
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(path)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk is forbidden here")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)
