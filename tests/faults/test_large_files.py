"""A file far larger than what a process may hold passes through it as a stream, both ways."""

import asyncio
import hashlib
import sys
from pathlib import Path

import pytest

from tests.fakes.s3 import ACCESS_KEY, BUCKET, REGION, SECRET, FakeS3
from tests.faults.copy_file import CHUNKS_PER_MIB, chunk
from tests.faults.processes import PROJECT

SIZE_MIB, MAX_GROWTH_MIB = 200, 20


async def _copy(*place: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.faults.copy_file", str(SIZE_MIB), *place, cwd=PROJECT, stdout=-1, stderr=-1
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), 110)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    growth, digest = output.decode().split()
    return int(growth), digest


def _digest() -> str:
    digest = hashlib.sha256()
    for number in range(SIZE_MIB * CHUNKS_PER_MIB):
        digest.update(chunk(number))
    return digest.hexdigest()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["bucket", "folder"])
async def test_a_large_file_is_never_in_memory_as_a_whole(tmp_path: Path, kind: str) -> None:
    async with FakeS3() as fake:
        bucket = (fake.url, REGION, BUCKET, ACCESS_KEY, SECRET)
        growth_mib, digest = await _copy(*(bucket if kind == "bucket" else (str(tmp_path / "files"),)))
        assert len(fake.buckets[BUCKET]) == (2 if kind == "bucket" else 0)
    assert digest == _digest()
    assert growth_mib < MAX_GROWTH_MIB
