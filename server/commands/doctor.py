"""The command `doctor`: checks everything that the server depends on, and prints a fix for each fault."""

import asyncio
import os
from collections.abc import Awaitable
from dataclasses import dataclass
from enum import IntEnum

import asyncpg

from server.actors.heartbeat import SHARE_FILES
from server.auth.supabase import check_accounts
from server.commands.notes import notes_of
from server.errors import CannotStart, CheckFailed
from server.inference.backends import create_upstream
from server.inference.events import UpstreamFault
from server.pooling import remedy_for
from server.settings import Backend, Settings
from server.storage.database import explain_refusal
from server.storage.embedded.binaries import EmbeddedPostgresError
from server.storage.embedded.data_folder import DataFolderInUse
from server.storage.embedded.ephemeral import is_ephemeral
from server.storage.embedded.postgres import EmbeddedPostgres
from server.storage.migrations import MigrationError, Standing, load_migrations, status
from server.storage.objects import check_objects
from server.storage.prepare import database_of, explain_missing_grants, require_usable
from server.storage.queries import statements

_CHECK_TIMEOUT_S = 15.0


class Exit(IntEnum):
    """Exit codes. With several faults it is the code of the first subject that failed."""

    WELL = 0
    DATA_DIR = 3
    DATABASE = 4
    UPSTREAM_UNREACHABLE = 5
    UPSTREAM_REFUSES = 6
    ACCOUNTS = 7
    STORAGE = 8


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `exit_code` is `WELL` without a fault. A note reports no fault, but perhaps a mistake."""

    subject: str
    text: str
    exit_code: Exit = Exit.WELL
    is_note: bool = False

    def __str__(self) -> str:
        mark = "note" if self.is_note else "ok  " if self.exit_code is Exit.WELL else "FAIL"
        return f"{mark}  {self.subject:<9} {self.text}"


async def run_doctor(settings: Settings) -> int:
    """Print a line for each subject. Returns the exit code of the first fault."""
    for note in notes_of(settings):
        print(Finding("settings", note.text, is_note=True), flush=True)  # noqa: T201 - the command's output
    findings = []
    subjects = (_examine_data_dir, _examine_database, _examine_upstream)
    accounts = () if settings.supabase_url is None else (_examine_accounts,)
    storage = () if settings.storage_url is None else (_examine_storage,)
    instances = () if settings.database_url is None else (_examine_instances,)
    for examine in (*subjects, *accounts, *storage, *instances):
        finding = await examine(settings)
        print(finding, flush=True)  # noqa: T201 - the command's output
        findings.append(finding)
    return next((finding.exit_code for finding in findings if finding.exit_code), Exit.WELL)


async def _examine_data_dir(settings: Settings) -> Finding:
    path = settings.data_dir.absolute()
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        return Finding("data", f"{path} is not writable: set DATA_DIR to a writable folder.", Exit.DATA_DIR)
    if settings.database_url is None and is_ephemeral(path):
        return Finding(
            "data", f"{path} is on a container's own disk and will be LOST: set DATABASE_URL or mount a volume."
        )
    return Finding("data", f"{path} is writable.")


async def _examine_database(settings: Settings) -> Finding:
    if settings.database_url is not None:
        finding = await _examine_url(settings, settings.database_url.get_secret_value(), "DATABASE_URL")
        if finding.exit_code is not Exit.WELL or settings.listen_database_url is None:
            return finding
        direct = await _examine_url(settings, settings.listen_database_url.get_secret_value(), "LISTEN_DATABASE_URL")
        return finding if direct.exit_code is Exit.WELL else direct
    try:
        async with EmbeddedPostgres(settings.data_dir) as postgres:
            return await _examine_url(settings, postgres.url, "embedded Postgres")
    except DataFolderInUse:
        return Finding("database", "embedded Postgres: a running server uses it.")
    except EmbeddedPostgresError as error:
        return Finding("database", str(error), Exit.DATABASE)


async def _examine_url(settings: Settings, url: str, name: str) -> Finding:
    database = database_of(settings, url)
    try:
        connection = await database.connect()
    except Exception as error:  # noqa: BLE001 - any error is the finding
        if advice := explain_refusal(error) or remedy_for(error):
            return Finding("database", advice.replace("DATABASE_URL", name, 1), Exit.DATABASE)
        advice = (
            f"{name}: {database.place} cannot be reached ({type(error).__name__}). "
            "Check that the host is right, that it runs, and that no firewall blocks the connection."
        )
        return Finding("database", advice, Exit.DATABASE)
    try:
        version = connection.get_server_version()
        await require_usable(connection, settings)
        entries = await status(connection, load_migrations())
        missing = sum(entry.standing is Standing.PENDING for entry in entries)
        cure = await explain_missing_grants(connection) if missing else None
    except CannotStart as error:
        return Finding("database", " ".join(error.faults), Exit.DATABASE)
    except MigrationError as error:
        return Finding("database", error.message, Exit.DATABASE)
    finally:
        connection.terminate()
    if cure is not None:
        return Finding("database", cure.replace("DATABASE_URL", name, 1), Exit.DATABASE)
    schema = f"{missing} migrations to apply (`serve` applies them)" if missing else "schema is the newest"
    return Finding("database", f"{name}: Postgres {version.major}.{version.micro}, {schema}.")


async def _examine_upstream(settings: Settings) -> Finding:
    upstream = create_upstream(settings)
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            check = await upstream.check()
    except TimeoutError:
        return Finding("model", f"No answer within {_CHECK_TIMEOUT_S:g} s.", Exit.UPSTREAM_UNREACHABLE)
    finally:
        await upstream.close()
    if check.is_ok:
        where = f"{settings.hf_base_url}: " if settings.backend is Backend.HUGGINGFACE else ""
        return Finding("model", where + check.detail)
    unreachable = check.fault in {UpstreamFault.UNREACHABLE, UpstreamFault.UNEXPECTED}
    return Finding("model", check.detail, Exit.UPSTREAM_UNREACHABLE if unreachable else Exit.UPSTREAM_REFUSES)


async def _examine_accounts(settings: Settings) -> Finding:
    return await _finding_of(check_accounts(settings), "accounts", Exit.ACCOUNTS)


async def _examine_storage(settings: Settings) -> Finding:
    return await _finding_of(check_objects(settings), "storage", Exit.STORAGE)


async def _examine_instances(settings: Settings) -> Finding:
    """Whether the live instances keep files in one place. Without a usable database that is not known."""
    url = settings.database_url
    try:
        connection = await database_of(settings, "" if url is None else url.get_secret_value()).connect()
    except Exception:  # noqa: BLE001 - `_examine_database` has named it
        return Finding("files", "not checked, because the database cannot be used.", is_note=True)
    try:
        [found] = await connection.fetch(statements()["count_file_stores"])
    except asyncpg.PostgresError:
        return Finding("files", "not checked, because the schema is not the newest.", is_note=True)
    finally:
        connection.terminate()
    if found["stores"] > 1:
        return Finding("files", f"Uploads are refused. {SHARE_FILES}", Exit.STORAGE)
    return Finding("files", f"{found['instances']} running instances, which share their files.")


async def _finding_of(check: Awaitable[str], subject: str, exit_code: Exit) -> Finding:
    try:
        return Finding(subject, await check)
    except CheckFailed as fault:
        return Finding(subject, str(fault), exit_code)
