"""`python -m server doctor`: one line for each subject, what to do about what is wrong, and an exit code of its own."""

import asyncio
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlsplit

import pytest
from asyncpg.types import ServerVersion

from server.errors import CannotStart
from server.settings import Settings
from server.storage.prepare import require_usable
from tests.fakes.huggingface import FakeHuggingFace, error_answer
from tests.faults.processes import prepare_data, run_command, server_process
from tests.pgbouncer import running_pgbouncer
from tests.postgres import Cluster


@contextmanager
def _upstream(fake: FakeHuggingFace) -> Iterator[str]:
    """The fake provider in a thread of its own, since the doctor is a process that is waited for."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(fake.__aenter__(), loop).result(10)
        yield fake.url
        asyncio.run_coroutine_threadsafe(fake.__aexit__(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def _doctor(data_dir: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    return run_command("doctor", data_dir=data_dir, **settings)


def test_all_embedded_is_well(tmp_path: Path) -> None:
    result = _doctor(tmp_path / "data")
    assert result.returncode == 0, result.stdout + result.stderr
    assert [line.split()[:2] for line in result.stdout.splitlines()] == [
        ["ok", "data"],
        ["ok", "database"],
        ["ok", "model"],
    ]
    assert "not AI" in result.stdout


def test_a_server_that_runs_on_the_same_data_is_well(tmp_path: Path) -> None:
    with server_process(tmp_path / "data") as server:
        result = _doctor(server.data_dir)
    assert result.returncode == 0
    assert "running server" in result.stdout


def test_a_wrong_database_password_is_named(tmp_path: Path, postgres_18: str) -> None:
    start, _, rest = postgres_18.partition("@")
    wrong = start.rpartition(":")[0] + ":wrong-canary@" + rest
    result = _doctor(tmp_path / "data", DATABASE_URL=wrong, INFERENCE_BACKEND="offline")
    assert result.returncode == 4
    assert "password" in result.stdout
    assert "canary" not in result.stdout + result.stderr


def test_both_ways_to_the_database_are_tried(tmp_path: Path, postgres_18: str) -> None:
    closed = "postgresql://alice:canary@127.0.0.1:1/app"
    settings = {"DATABASE_URL": postgres_18, "LISTEN_DATABASE_URL": closed, "INFERENCE_BACKEND": "offline"}
    result = _doctor(tmp_path / "data", **settings)
    assert (result.returncode, "LISTEN_DATABASE_URL: 127.0.0.1:1/app cannot be reached" in result.stdout) == (4, True)
    assert "canary" not in result.stdout + result.stderr


def test_a_pooler_that_nobody_announced_is_named(tmp_path: Path, postgres_18: str) -> None:
    with running_pgbouncer(postgres_18, "transaction") as pooler:
        settings = {"DATABASE_URL": pooler.through(postgres_18), "INFERENCE_BACKEND": "offline"}
        result = _doctor(tmp_path / "data", **settings)
        assert (result.returncode, "set DATABASE_POOLER" in result.stdout) == (4, True), result.stdout
        assert _doctor(tmp_path / "data", DATABASE_POOLER="transaction", **settings).returncode == 0


def test_a_store_of_files_that_cannot_be_reached_has_an_exit_code_of_its_own(tmp_path: Path) -> None:
    storage = {
        "STORAGE_URL": "http://127.0.0.1:1/s3",
        "STORAGE_ACCESS_KEY_ID": "key-canary",
        "STORAGE_SECRET_ACCESS_KEY": "secret-canary",
    }
    result = _doctor(prepare_data(tmp_path / "data"), INFERENCE_BACKEND="offline", **storage)
    [said] = [line for line in result.stdout.splitlines() if line.startswith("FAIL")]
    assert (result.returncode, said.split()[1], "STORAGE_URL" in said) == (8, "storage", True)
    assert "canary" not in result.stdout + result.stderr


BAD_URLS = [
    ("127.0.0.1:1/app?sslmode=canary", "sslmode"),
    ("127.0.0.1:1/app?sslmode=verify-full&sslrootcert=/nope/canary", "sslrootcert"),
    ("127.0.0.1:1/app?sslmode=require&sslcert=/nope/canary", "sslcert"),
    ("/app?port=x", "cannot be read"),
]


@pytest.mark.parametrize(("place", "named"), BAD_URLS)
def test_a_database_url_that_cannot_work_is_one_line(tmp_path: Path, place: str, named: str) -> None:
    """For every command with the first URL, for the server with the others: all read it in one place."""
    settings = {"DATABASE_URL": f"postgresql://alice:canary@{place}", "INFERENCE_BACKEND": "offline"}
    doctor = _doctor(tmp_path / "data", **settings)
    assert doctor.returncode == 4
    [said] = [line for line in doctor.stdout.splitlines() if line.startswith("FAIL  database")]
    assert named in said
    assert "canary" not in doctor.stdout + doctor.stderr
    others = (["migrate"], ["migrate", "--status"]) if (place, named) == BAD_URLS[0] else ()
    for command in (["serve"], *others):
        done = run_command(*command, data_dir=tmp_path / "data", PORT="0", **settings)
        lines = [line for line in done.stderr.splitlines() if line.startswith("Cannot start: ")]
        assert (done.returncode, len(lines)) == (2, 1), done.stderr
        assert named in lines[0]
        assert "Traceback" not in done.stdout + done.stderr
        assert "canary" not in done.stdout + done.stderr


@pytest.mark.parametrize("place", ["@127.0.0.1:1/app", "@/app?host=/nowhere"])
def test_a_database_that_is_down_is_no_fault_of_the_url(tmp_path: Path, place: str) -> None:
    settings = {"DATABASE_URL": f"postgresql://alice:canary{place}", "INFERENCE_BACKEND": "offline"}
    assert "cannot be reached" in _doctor(tmp_path / "data", **settings).stdout
    done = run_command("migrate", data_dir=tmp_path / "data", **settings)
    [line] = done.stderr.splitlines()
    assert line.startswith("Cannot start: The database at ")
    assert "canary" not in line


def test_a_database_of_supabase_is_refused_by_every_command(tmp_path: Path, cluster_18: Cluster) -> None:
    with cluster_18.database() as url:
        cluster_18.execute("CREATE ROLE supabase_auth_admin")
        try:
            settings = {"DATABASE_URL": url, "INFERENCE_BACKEND": "offline", "PORT": "0"}
            doctor = _doctor(tmp_path / "data", **settings)
            assert (doctor.returncode, "set SUPABASE_URL" in doctor.stdout) == (4, True)
            for command in (["migrate"], ["migrate", "--status"], ["serve"]):
                done = run_command(*command, data_dir=tmp_path / "data", **settings)
                assert (done.returncode, "set SUPABASE_URL" in done.stderr) == (2, True), done.stderr
        finally:
            cluster_18.execute("DROP ROLE supabase_auth_admin")


PLAIN_ROLE = 'plain "Role"'
GRANTS = re.compile(r"run: (GRANT CREATE ON DATABASE .*; GRANT USAGE, CREATE ON SCHEMA public TO .*;)$", re.MULTILINE)


def test_around_a_role_that_may_not_create_tables_gets_the_statements_torun_command(
    tmp_path: Path, cluster_18: Cluster
) -> None:
    quoted = '"plain ""Role"""'
    with cluster_18.database() as url:
        name = urlsplit(url).path.strip("/")
        cluster_18.execute(f"CREATE ROLE {quoted} LOGIN PASSWORD '{cluster_18.password}'")
        try:
            settings = {
                "DATABASE_URL": cluster_18.url(name, role=quote(PLAIN_ROLE)),
                "INFERENCE_BACKEND": "offline",
                "PORT": "0",
            }
            doctor = _doctor(tmp_path / "data", **settings)
            assert doctor.returncode == 4, doctor.stdout
            said = [doctor.stdout]
            for command in ("migrate", "serve"):
                done = run_command(command, data_dir=tmp_path / "data", **settings)
                assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
                said.append(done.stderr)
            [statements] = {match[1] for text in said for match in [GRANTS.search(text)] if match} or {""}
            assert statements.count(quoted) == 2, said
            assert [bool(GRANTS.search(text)) for text in said] == [True] * 3
            cluster_18.execute(statements, database=name)
            migrated = run_command("migrate", data_dir=tmp_path / "data", **settings)
            assert migrated.returncode == 0, migrated.stderr
            # After its migrations a server needs no privilege to create: doctor asks for none.
            cluster_18.execute(f"REVOKE CREATE ON SCHEMA public FROM {quoted}", database=name)
            assert _doctor(tmp_path / "data", **settings).returncode == 0
        finally:
            cluster_18.execute(f"DROP OWNED BY {quoted} CASCADE", database=name)
            cluster_18.execute(f"DROP ROLE {quoted}")


def test_around_names_that_are_not_read_are_named(tmp_path: Path) -> None:
    settings = {"HUGGING_FACE_HUB_TOKEN": "hf_canary", "HF_APITOKEN": "hf_canary"}
    result = _doctor(tmp_path / "data", INFERENCE_BACKEND="offline", **settings)
    notes = [line for line in result.stdout.splitlines() if line.startswith("note")]
    assert notes == [f"note  settings  {name} is not read: set HF_API_TOKEN." for name in sorted(settings)]
    assert result.returncode == 0
    refused = run_command("serve", data_dir=tmp_path / "data", INFERENCE_BACKEND="huggingface", **settings)
    assert refused.returncode == 2
    assert refused.stderr.count("which is not read: set HF_API_TOKEN") == 2
    assert "canary" not in result.stdout + refused.stderr


@pytest.mark.parametrize(("major", "is_usable"), [(14, False), (15, True), (18, True)])
async def test_a_postgres_that_is_too_old_is_refused(major: int, *, is_usable: bool) -> None:
    connection = OldPostgres(major)
    usable = require_usable(cast("Any", connection), Settings(_env_file=None))
    if is_usable:
        await usable
    else:
        with pytest.raises(CannotStart, match=f"Postgres {major} is too old"):
            await usable


@dataclass(frozen=True, slots=True)
class OldPostgres:
    """A connection to a server of some version, as far as it is looked at."""

    major: int

    def get_server_version(self) -> ServerVersion:
        return ServerVersion(self.major, 0, 1, "final", 0)

    async def fetchval(self, _query: str) -> bool:
        return False


def test_an_unreachable_model_is_named(tmp_path: Path) -> None:
    result = _doctor(prepare_data(tmp_path / "data"), HF_BASE_URL="http://127.0.0.1:9")
    assert result.returncode == 5
    assert "HF_BASE_URL" in result.stdout


@pytest.mark.parametrize(
    ("status", "words", "remedy"),
    [
        (401, "Invalid credentials in Authorization header", "HF_API_TOKEN"),
        (402, "You have depleted your monthly included credits", "credits"),
        (403, "This authentication method does not have sufficient permissions", "permission"),
    ],
)
def test_a_token_that_cannot_work_is_named_with_its_remedy(
    tmp_path: Path, status: int, words: str, remedy: str
) -> None:
    with _upstream(FakeHuggingFace(listing=error_answer(status, words))) as url:
        result = _doctor(prepare_data(tmp_path / "data"), HF_BASE_URL=url, HF_API_TOKEN="hf_canarycanarycanary")
    assert result.returncode == 6, result.stdout
    assert remedy in result.stdout
    assert "canary" not in result.stdout + result.stderr


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    result = _doctor(tmp_path / "file" / "data")
    assert result.returncode == 3
    assert "DATA_DIR" in result.stdout
