"""The embedded Postgres under other users: root, uid 65534, and users without a name."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from server.storage.embedded import os_user
from server.storage.embedded.postgres import Binaries, EmbeddedPostgres
from tests.integration.embedded.surroundings import (
    IS_ROOT,
    as_root,
    holding,
    query,
    reachable_folder,
    recall,
    refusal,
    start_holder,
)

UNNAMED_UID = 54321


def _namespace(uid: int) -> tuple[str, ...]:
    return ("unshare", "--user", f"--map-user={uid}", f"--map-group={uid}", "--")


in_namespace = pytest.mark.skipif(
    IS_ROOT and os_user._in_namespace() is None, reason="this machine allows no user namespaces"
)


@as_root
@in_namespace
@pytest.mark.parametrize("uid", [65534, UNNAMED_UID])
async def test_an_ordinary_user_needs_no_name_and_no_rights(data_dir: Path, uid: int) -> None:
    """In a user namespace this process is not root, while its files stay its own."""
    async with holding(data_dir, *_namespace(uid)) as holder:
        assert holder.uid == uid
        assert await recall(holder.url) == 42


@pytest.fixture
def closed_folder(tmp_path: Path) -> Iterator[Path]:
    tmp_path.chmod(0o500)
    yield tmp_path
    tmp_path.chmod(0o700)


@in_namespace
async def test_a_folder_that_cannot_be_written_is_explained(closed_folder: Path) -> None:
    prefix = _namespace(65534) if IS_ROOT else ()
    process = await start_holder(closed_folder / "data", *prefix)
    _, said = await process.communicate()
    assert process.returncode == 1
    assert said.decode().startswith(f"DATA_DIR={closed_folder}/data cannot be written by this user (uid ")
    assert said.count(b"\n") == 1


@as_root
async def test_root_without_namespaces_becomes_nobody(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os_user, "_in_namespace", lambda: None)
    with reachable_folder() as folder:
        reachable = Path(shutil.copytree(data_dir, folder / "data"))
        async with EmbeddedPostgres(reachable) as postgres:
            assert psutil.Process(postgres.pid).uids().real == 65534
            assert await recall(postgres.url) == 42
        monkeypatch.undo()
        async with EmbeddedPostgres(reachable) as postgres:  # whom the data belongs to runs it, also with namespaces
            assert psutil.Process(postgres.pid).uids().real == 65534
            assert await recall(postgres.url) == 42


@as_root
async def test_root_without_namespaces_makes_a_database_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os_user, "_in_namespace", lambda: None)
    with reachable_folder() as folder:
        async with EmbeddedPostgres(folder / "long" / ("x" * 100)) as postgres:
            assert await query(postgres.url, "SELECT 1") == 1


@as_root
async def test_root_without_namespaces_may_keep_programs_and_data_in_a_closed_folder(
    own_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in /root (`tmp_path` has mode 0700, too). The data was made in a namespace, where that is possible."""
    programs = tmp_path / "bin"
    programs.symlink_to(Binaries.find().directory)
    with monkeypatch.context() as patch:
        patch.setattr(os_user, "_in_namespace", lambda: None)
        for data_dir in (own_data_dir, tmp_path / "new"):
            async with EmbeddedPostgres(data_dir, binaries=Binaries.at(programs)) as postgres:
                assert psutil.Process(postgres.pid).uids().real == 65534
                assert await query(postgres.url, "SELECT 1") == 1
    async with EmbeddedPostgres(own_data_dir, binaries=Binaries.at(programs)) as postgres:
        assert await recall(postgres.url) == 42


@as_root
async def test_root_without_namespaces_and_without_the_capability_is_told_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os_user, "_in_namespace", lambda: None)
    monkeypatch.setattr(os_user, "_KEEP_DAC_OVERRIDE", ("--ambient-caps=+all",))  # more than setpriv can give
    programs = tmp_path / "bin"
    programs.symlink_to(Binaries.find().directory)
    message = await refusal(tmp_path / "data", binaries=Binaries.at(programs))
    assert f"user 65534 cannot reach {programs / 'postgres'}" in message
    assert "CAP_DAC_OVERRIDE" in message
    assert "such as /srv" in message
