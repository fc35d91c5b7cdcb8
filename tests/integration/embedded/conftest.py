"""Folders in which a server has been."""

import shutil
from pathlib import Path

import pytest

from server.storage.embedded.postgres import EmbeddedPostgres
from tests.integration.embedded.surroundings import remember
from tests.postgres import run


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a server has been, with one row. Shared: making one takes longer than most of these tests."""
    data_dir = tmp_path_factory.mktemp("made") / "data"

    async def make() -> None:
        async with EmbeddedPostgres(data_dir) as postgres:
            await remember(postgres.url)

    run(make())
    return data_dir


@pytest.fixture
def own_data_dir(data_dir: Path, tmp_path: Path) -> Path:
    """A copy of that folder, for a test that leaves it otherwise than it was."""
    return Path(shutil.copytree(data_dir, tmp_path / "data"))
