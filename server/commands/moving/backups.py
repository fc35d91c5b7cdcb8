"""The commands `backup` and `restore`: the whole embedded database, with sessions and secrets, and the files."""

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from server.commands.moving.archive import ArchiveReader, ArchiveWriter, Member
from server.commands.moving.files import add_files
from server.commands.serve import open_shared_database
from server.errors import CannotStart
from server.settings import Settings
from server.storage.embedded.binaries import Binaries
from server.storage.embedded.cluster import ClusterFolder
from server.storage.embedded.data_folder import DataFolder, explained
from server.storage.embedded.os_user import choose_os_user
from server.storage.embedded.postgres import EmbeddedPostgres
from server.storage.embedded.process import clean_environment, stop_leftovers
from server.storage.objects import Objects, create_objects, parse_key

_DUMP = "database.dump"
_CHUNK_BYTES = 256 * 1024
_TOOL_TIMEOUT_S = 3600.0
_NOT_OURS = (
    "backup and restore are for the embedded database. Save the database of DATABASE_URL with pg_dump or at its host; "
    "move it with `export` and `import`."
)


async def run_backup(settings: Settings, path: Path) -> int:
    """Exit code 0: the file is a complete, consistent snapshot. Works with or without a running server."""
    if settings.database_url is not None:
        raise CannotStart(_NOT_OURS)
    files = 0
    async with open_shared_database(settings) as url, ArchiveWriter(path, "backup", {}) as archive:
        with _temporary_file(path.with_name(f"{path.name}.dump.part")) as dump:
            await _run_tool("pg_dump", url, "--format=custom", "--compress=0", f"--file={dump}")
            await archive.add_stream(_DUMP, dump.stat().st_size, _read(dump))
        if settings.storage_url is None:
            objects = create_objects(settings)
            try:
                files = await add_files(archive, objects)
            finally:
                await objects.close()
    print(f"{path}: the database and {files} files.")  # noqa: T201 - the command's output
    print("It contains prompts, answers, password hashes and the key that signs tokens: keep it safe.")  # noqa: T201
    if settings.storage_url is not None:
        print("It does not contain the files in the bucket.")  # noqa: T201 - as above
    return 0


async def run_restore(settings: Settings, path: Path) -> int:
    """Exit code 0: `DATA_DIR` holds the database of the archive. It gets its name as the last step.

    Raises `CannotStart` if a database exists already. After an interruption, run it again.
    """
    if settings.database_url is not None:
        raise CannotStart(_NOT_OURS)
    reader = ArchiveReader(path, "backup")
    await reader.check()
    folder = DataFolder(settings.data_dir)
    try:
        await _restore(reader, settings, folder.path)
    finally:
        folder.release()
    print(f"{folder.path} holds the database of {path}: start the server.")  # noqa: T201 - the command's output
    return 0


async def _restore(reader: ArchiveReader, settings: Settings, data_dir: Path) -> None:
    home = data_dir / "postgres"
    if home.exists():
        raise CannotStart(f"{home} contains a database already: set DATA_DIR to another folder, or move that one away.")
    objects = create_objects(settings)
    try:
        async with _draft(data_dir) as draft:
            async with EmbeddedPostgres(draft) as postgres:
                async for member in reader.members():
                    await _restore_member(member, postgres.url, draft, objects)
            with explained(data_dir):
                (draft / "postgres").rename(home)
    finally:
        await objects.close()


async def _restore_member(member: Member, url: str, draft: Path, objects: Objects) -> None:
    if member.name == _DUMP:
        with _temporary_file(draft / _DUMP) as dump:
            with explained(draft), dump.open("wb") as file:
                async for chunk in member.chunks():
                    file.write(chunk)
            await _run_tool("pg_restore", url, "--single-transaction", "--exit-on-error", str(dump))
        return
    place, _, key = member.name.partition("/")
    if place != "files":
        raise CannotStart(f"The archive holds {member.name!r}, which this version does not know.")
    await objects.put(parse_key(key), member.chunks(), max_bytes=member.size)


@contextlib.asynccontextmanager
async def _draft(data_dir: Path) -> AsyncIterator[Path]:
    """A temporary folder for the new database. Processes and files of an interrupted restore are removed first."""
    draft = data_dir / "restore.draft"
    leftover = ClusterFolder(draft / "postgres")
    os_user = choose_os_user(leftover.home, Binaries.find())
    if draft.exists():
        await stop_leftovers(leftover.data, locks=leftover.locks, os_user=os_user)
        shutil.rmtree(draft)
    with explained(data_dir):
        draft.mkdir(mode=0o700)
    os_user.allow_traversal(data_dir)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def _temporary_file(path: Path) -> Iterator[Path]:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    except OSError as error:
        raise CannotStart(f"{path} cannot be written ({error.strerror}): name another place.") from None
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


async def _read(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            yield chunk


async def _run_tool(name: str, url: str, *options: str) -> None:
    """Run a program of Postgres on this database. Raises `CannotStart` with its last line of stderr if it fails."""
    parts = urlsplit(url)
    command: Sequence[str] = (
        Binaries.find().path(name),
        "--no-password",
        f"--dbname={parts._replace(netloc=f'{parts.username}@').geturl()}",
        *options,
    )
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=clean_environment() | {"PGPASSWORD": unquote(parts.password or "")},
    )
    try:
        async with asyncio.timeout(_TOOL_TIMEOUT_S):
            _, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        last = stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no reason given"]
        raise CannotStart(f"{name} failed: {last[0]}")
