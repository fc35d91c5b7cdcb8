"""The command `psql`: opens the database of the settings in psql, with or without a running server."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from server.commands.serve import open_shared_database
from server.settings import Settings
from server.storage.embedded.binaries import Binaries, EmbeddedPostgresError

_NOT_FOUND = "psql is not installed: install Postgres' client programs (Debian: apt-get install postgresql-client)."


async def run_psql(settings: Settings, arguments: Sequence[str]) -> int:
    """Returns psql's exit code, or 1 without psql. An embedded database that is not running runs until psql ends."""
    program = _find_psql()
    if program is None:
        print(_NOT_FOUND, file=sys.stderr)  # noqa: T201 - for a person
        return 1
    async with open_shared_database(settings) as url:
        address, password = _split_password(url)
        environment = os.environ | ({} if password is None else {"PGPASSWORD": password})
        if settings.database_ssl_root_cert is not None:
            environment |= {"PGSSLROOTCERT": str(settings.database_ssl_root_cert)}
        # Ctrl-C is for psql, which has the same terminal: it cancels a statement.
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, lambda: None)
        process = await asyncio.create_subprocess_exec(program, address, *arguments, env=environment)
        return await process.wait()


def _find_psql() -> str | None:
    """The psql next to the binaries of the embedded Postgres, else the one of this machine."""
    try:
        beside = shutil.which(Binaries.find().path("psql"))
    except EmbeddedPostgresError:
        beside = None
    return beside or shutil.which("psql")


def _split_password(url: str) -> tuple[str, str | None]:
    """The URL without its password, which other users could read in the list of processes, and the password."""
    parts = urlsplit(url)
    if parts.password is None:
        return url, None
    user, host = parts.netloc.rpartition("@")[::2]
    return parts._replace(netloc=f"{user.partition(':')[0]}@{host}").geturl(), unquote(parts.password)
