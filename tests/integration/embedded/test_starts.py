"""The embedded Postgres as real processes: started, stopped, and found again with its data."""

import asyncio
import stat
import subprocess
from pathlib import Path

import asyncpg
import pytest

from server.storage.embedded.postgres import EmbeddedPostgres
from tests.integration.embedded.surroundings import moved, pids_in, query, recall


async def test_the_first_start_makes_a_private_durable_database(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "new" / "data") as postgres:
        settings = {
            name: await query(postgres.url, f"SHOW {name}") for name in ("fsync", "timezone", "listen_addresses")
        }
        assert settings == {"fsync": "on", "timezone": "UTC", "listen_addresses": ""}
        assert await query(postgres.url, "SELECT current_database()") == "ai_sdk_server"
        encoding = (
            "SELECT pg_encoding_to_char(encoding) || datcollate FROM pg_database WHERE datname = current_database()"
        )
        assert await query(postgres.url, encoding) == "UTF8C"
        hba = "SELECT count(*) FROM pg_hba_file_rules WHERE auth_method <> 'scram-sha-256'"
        assert await query(postgres.url, hba) == 0
        home = tmp_path / "new" / "data" / "postgres"
        modes = {
            path.name: stat.S_IMODE(path.stat().st_mode)
            for path in (home, home / "data", home / "password", home / "log")
        }
        assert modes == {"postgres": 0o700, "data": 0o700, "password": 0o600, "log": 0o600}


async def test_stopping_leaves_no_process_and_the_next_start_finds_the_data(data_dir: Path) -> None:
    async with EmbeddedPostgres(data_dir) as postgres:
        assert await recall(postgres.url) == 42
        assert pids_in(data_dir)
    assert pids_in(data_dir) == set()
    async with EmbeddedPostgres(data_dir) as postgres:
        assert await recall(postgres.url) == 42


async def test_stopping_does_not_wait_for_clients(data_dir: Path) -> None:
    async with EmbeddedPostgres(data_dir) as postgres:
        connection = await asyncpg.connect(postgres.url)
        async with asyncio.timeout(5):
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute("UPDATE kept SET answer = 0")
    connection.terminate()
    assert pids_in(data_dir) == set()


async def test_a_wrong_password_is_not_let_in(data_dir: Path) -> None:
    async with EmbeddedPostgres(data_dir) as postgres:
        password = (data_dir / "postgres" / "password").read_text()
        with pytest.raises(asyncpg.InvalidPasswordError):
            await query(postgres.url.replace(password, "guess"), "SELECT 1")


async def test_prompts_in_failing_statements_do_not_reach_the_log(data_dir: Path) -> None:
    async with EmbeddedPostgres(data_dir) as postgres:
        await query(postgres.url, "CREATE TABLE said (prompt text UNIQUE)")
        insert = "INSERT INTO said VALUES ('a secret prompt')"
        await query(postgres.url, insert)
        with pytest.raises(asyncpg.UniqueViolationError):
            await query(postgres.url, insert)
    text = (data_dir / "postgres" / "log").read_text()
    assert "duplicate key" in text
    assert "secret" not in text


async def test_postgres_sees_nothing_of_our_environment(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_API_TOKEN", "hf_secret")
    monkeypatch.setenv("PGPORT", "1")
    async with EmbeddedPostgres(data_dir) as postgres:
        asked = postgres.os_user.prefix if postgres.os_user.uid is not None else ()  # root of a container may not look
        environ = await _output_of(*asked, "cat", f"/proc/{postgres.pid}/environ")
        assert {line.partition("=")[0] for line in environ.strip("\0").split("\0")} <= {
            "PATH",
            "LC_ALL",
            "TZ",
        } | _SET_BY_POSTGRES


async def _output_of(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    said, _ = await process.communicate()
    return said.decode()


_SET_BY_POSTGRES = {
    "PGDATA",
    "PGSYSCONFDIR",
    "PGLOCALEDIR",
    "PG_GRANDPARENT_PID",
    "LC_COLLATE",
    "LC_CTYPE",
    "LC_MESSAGES",
}


async def test_the_log_is_kept_small(data_dir: Path) -> None:
    log = data_dir / "postgres" / "log"
    log.write_bytes(b"x" * 5 * 1024 * 1024)
    async with EmbeddedPostgres(data_dir):
        assert log.stat().st_size < 100_000
        assert log.with_suffix(".old").stat().st_size == 5 * 1024 * 1024


@pytest.mark.parametrize("name", ["with spaces 'and' ünïcode", "a,b", "long" * 40])
async def test_any_path_will_do(data_dir: Path, tmp_path: Path, name: str) -> None:
    with moved(data_dir, tmp_path / name) as elsewhere:
        async with EmbeddedPostgres(elsewhere) as postgres:
            assert await recall(postgres.url) == 42


async def test_a_relative_path_will_do(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data_dir.parent)
    async with EmbeddedPostgres(Path("data")) as postgres:
        assert await recall(postgres.url) == 42
