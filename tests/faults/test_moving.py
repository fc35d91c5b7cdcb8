"""`export`, `import`, `backup` and `restore` as an operator runs them, and killed in the middle."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from server.commands.moving.archive import ArchiveWriter
from tests import tools
from tests.faults.processes import NO_AUTHORITIES, PASSWORD, PROJECT, ServerProcess, server_process, until
from tests.postgres import Cluster, run

ROWS = 3_000
_SEED = """
INSERT INTO public.model_requests (id, user_id, status, completed_at, model_type, input_data, output_data, owner)
SELECT gen_random_uuid(), id, 'completed', now(), 'text2text', '{"prompt": "hello"}',
    jsonb_build_object('text', repeat(md5(number::text), 50)), gen_random_uuid()
FROM auth.users, generate_series(1, $1) AS number
"""
_COUNT = "SELECT count(*) AS rows, count(DISTINCT id) AS ids FROM public.model_requests"
_SLOW = (
    """
    CREATE FUNCTION public.dawdle() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END'
    """,
    "CREATE TRIGGER dawdle AFTER INSERT ON public.model_requests FOR EACH STATEMENT EXECUTE FUNCTION public.dawdle()",
)


def _launch(command: str, file: Path, data_dir: Path, **settings: str) -> "subprocess.Popen[str]":
    environment = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "TMPDIR"}}
    return subprocess.Popen(
        [sys.executable, "-m", "server", command, str(file)],
        cwd=data_dir.parent,
        env=environment | {"DATA_DIR": str(data_dir), "PYTHONPATH": str(PROJECT)} | NO_AUTHORITIES | settings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _run(command: str, file: Path, data_dir: Path, **settings: str) -> tuple[int, str, str]:
    process = _launch(command, file, data_dir, **settings)
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    return process.returncode, out, err


def _kill_after(process: "subprocess.Popen[str]", pause_s: float) -> bool:
    """Whether it was still at work then."""
    time.sleep(pause_s)
    process.kill()
    process.communicate(timeout=10)
    return process.returncode == -signal.SIGKILL


def _query(url: str, query: str, *args: Any) -> list[asyncpg.Record]:
    async def fetch() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetch(query, *args)
        finally:
            await connection.close()

    return run(fetch())


@contextmanager
def _again(server: ServerProcess) -> Iterator[ServerProcess]:
    """Another server with the same user."""
    with server_process(server.data_dir.parent / "again") as other:
        other.token = server.token
        yield other


@pytest.mark.slow
def test_an_import_that_is_killed_again_and_again_is_complete_in_the_end(
    tmp_path: Path, cluster_18: Cluster, template_18: str
) -> None:
    with cluster_18.database(template_18) as before, cluster_18.database() as after:
        with server_process(tmp_path / "before", DATABASE_URL=before, INFERENCE_BACKEND="offline") as server:
            server.sign_up("alice@example.com")
        _query(before, _SEED, ROWS)
        archive = tmp_path / "move.tar.gz"
        killed = _launch("export", archive, tmp_path / "before", DATABASE_URL=before)
        until(archive.with_name("move.tar.gz.part").exists)
        assert _kill_after(killed, 0)
        assert not archive.exists(), "what is there is complete"
        assert _run("export", archive, tmp_path / "before", DATABASE_URL=before)[0] == 0
        assert _run("import", archive, tmp_path / "after", DATABASE_URL=after)[0] == 0
        _query(after, "DELETE FROM auth.users")
        for statement in _SLOW:
            _query(after, statement)
        for kills in range(1, 4):
            process = _launch("import", archive, tmp_path / "after", DATABASE_URL=after)
            until(lambda: _query(after, _COUNT)[0]["rows"] >= 500 * kills)  # noqa: B023 - it is called here
            assert _kill_after(process, 0.01 * kills)
            [(rows, ids)] = _query(after, _COUNT)
            assert 0 < rows == ids < ROWS
        code, out, _ = _run("import", archive, tmp_path / "after", DATABASE_URL=after)
        assert (code, f"requests: {ROWS}, of which" in out) == (0, True)
        assert tuple(_query(after, _COUNT)[0]) == (ROWS, ROWS)
        with server_process(tmp_path / "after", DATABASE_URL=after, INFERENCE_BACKEND="offline") as server:
            credentials = {"email": "alice@example.com", "password": PASSWORD}
            status, entered = server.call("POST", "/auth/signin", credentials)
            assert status == 200
            server.token = entered["token"]
            assert len(server.history()) == 1000


def test_a_backup_beside_a_running_server_is_restored_with_its_sessions(tmp_path: Path) -> None:
    archive = tmp_path / "backup.tar.gz"
    with server_process(tmp_path / "data") as server:
        server.sign_up()
        done = [server.create(f"number {number}", prefer="wait=20")[1] for number in range(5)]
        key = _keep_file(tmp_path / "data", done[0]["user_id"])
        code, out, err = _run("backup", archive, tmp_path / "data")
        assert (code, err) == (0, "")
        assert "the database and 1 files" in out
        server.create("after the backup", prefer="wait=20")
        code, _, err = _run("restore", archive, tmp_path / "data")
        assert (code, "in use by another server" in err) == (2, True)
    assert archive.stat().st_mode & 0o777 == 0o600
    code, _, err = _run("restore", archive, tmp_path / "data")
    assert (code, "contains a database already" in err) == (2, True)

    code, out, err = _run("restore", archive, tmp_path / "again")
    assert (code, err) == (0, ""), out
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["files", "lock", "postgres"]
    assert (tmp_path / "again" / "files" / key).read_bytes() == b"image"
    with _again(server) as other:
        assert {item["id"] for item in other.history()} == {item["id"] for item in done}
        assert other.create("goes on", prefer="wait=20")[1]["status"] == "completed"


def test_a_restore_that_is_killed_leaves_no_database_and_is_run_again(tmp_path: Path) -> None:
    archive = tmp_path / "backup.tar.gz"
    with server_process(tmp_path / "data") as server:
        server.sign_up()
        server.create(prefer="wait=20")
    assert _run("backup", archive, tmp_path / "data")[0] == 0
    draft = tmp_path / "again" / "restore.draft" / "postgres" / "data" / "postmaster.pid"
    process = _launch("restore", archive, tmp_path / "again")
    until(draft.exists)
    assert _kill_after(process, 0)
    assert not (tmp_path / "again" / "postgres").exists()
    code, _, err = _run("restore", archive, tmp_path / "again")
    assert (code, err) == (0, "")
    assert not (tmp_path / "again" / "restore.draft").exists()
    with _again(server) as other:
        assert len(other.history()) == 1


def test_a_backup_of_an_older_postgres_is_restored_into_this_one(
    tmp_path: Path, cluster_15: Cluster, template_15: str
) -> None:
    archive = tmp_path / "backup.tar.gz"
    with cluster_15.database(template_15) as old:
        with server_process(tmp_path / "data", DATABASE_URL=old, INFERENCE_BACKEND="offline") as server:
            server.sign_up()
            server.create(prefer="wait=20")
        dump = subprocess.run(
            [tools.POSTGRES_15.require().with_name("pg_dump"), "--format=custom", "--compress=0", f"--dbname={old}"],
            capture_output=True,
            check=True,
        ).stdout

    async def pack() -> None:
        async with ArchiveWriter(archive, "backup", {}) as writer:
            await writer.add("database.dump", dump)

    run(pack())
    assert _run("restore", archive, tmp_path / "again")[0] == 0
    with _again(server) as other:
        assert len(other.history()) == 1


@pytest.mark.parametrize("command", ["import", "restore"])
def test_a_damaged_archive_changes_nothing(tmp_path: Path, command: str) -> None:
    archive = tmp_path / "damaged.tar.gz"
    archive.write_bytes(b"\x1f\x8b damaged")
    code, out, err = _run(command, archive, tmp_path / "data")
    assert (code, out) == (2, "")
    assert err.startswith("Cannot start: The archive is damaged")
    assert not (tmp_path / "data" / "postgres").exists()


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_a_database_of_ones_own_has_tools_of_its_own(tmp_path: Path, postgres_18: str, command: str) -> None:
    code, _, err = _run(command, tmp_path / "file", tmp_path / "data", DATABASE_URL=postgres_18)
    assert (code, "for the embedded database" in err) == (2, True)


def _keep_file(data_dir: Path, user_id: str) -> str:
    key = f"{user_id}/{user_id}.png"
    folder = data_dir / "files" / user_id
    folder.mkdir(parents=True)
    (folder / f"{user_id}.png").write_bytes(b"image")
    return key
