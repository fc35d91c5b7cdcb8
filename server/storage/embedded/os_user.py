"""Runs the Postgres programs as somebody who is not root, because Postgres refuses to work for root."""

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from server.storage.embedded.binaries import OWN_DATABASE, Binaries, EmbeddedPostgresError

_NOBODY = 65534
_PROBE_TIMEOUT_S = 10
_REACH_ALL = ("--securebits=+no_setuid_fixup", "--inh-caps=+dac_override", "--ambient-caps=+dac_override")
"""Keeps CAP_DAC_OVERRIDE across the switch. Without the bit, access(2), which Postgres asks of its own programs, would
leave it out for everyone but root."""


@dataclass(frozen=True, slots=True)
class Account:
    """As whom Postgres runs: `prefix` stands before every command, files belong to `uid` (None: to us, unchanged).

    A prefix, because uvloop's subprocesses take no `user`.
    """

    prefix: tuple[str, ...] = ()
    uid: int | None = None
    reason: str = ""
    """Why Postgres runs as another user, for the log; empty where it runs as this one."""

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
        return _switched(owner, data, binaries, why=f"the data belongs to user {owner}")
    return _in_namespace() or _switched(_NOBODY, data, binaries, why="this machine allows no user namespaces")


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
        f"Postgres refuses to run for uid {os.geteuid()}, which has no name: add it to /etc/passwd. {OWN_DATABASE}"
    )


def _in_namespace() -> Account | None:
    """A user namespace, by util-linux' `unshare`, which then becomes the command: the process id stays."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return None
    account = Account((unshare, "--user", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}", "--"))
    return account if _works([*account.prefix, "true"]) else None


def _switched(uid: int, data: Path, binaries: Binaries, *, why: str) -> Account:
    """Another user by util-linux' `setpriv`.

    Where that one cannot reach the programs or the data, it gets the capability to, and no other. That is no more than
    the user namespace allows, in which Postgres has the rights of the owner of root's files.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise _refused("neither unshare nor setpriv is installed: install util-linux")
    switch = (setpriv, f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
    if not _works([*switch, "true"]):
        raise _refused(f"it may not become user {uid} here: give it CAP_SETUID and CAP_SETGID")
    why = f"Postgres refuses to run as root; {why}"
    places = (binaries.directory / "postgres", data.parent.parent, Path(tempfile.gettempdir()))
    if (closed := _find_closed(switch, places)) is None:
        return Account((*switch, "--"), uid, why)
    if _find_closed((*switch, *_REACH_ALL), places) is None:
        return Account((*switch, *_REACH_ALL, "--"), uid, f"{why}; with CAP_DAC_OVERRIDE, to reach {closed}")
    raise _refused(
        f"user {uid} cannot reach {closed}: move the project and DATA_DIR to a folder that every user can get to, such "
        "as /srv, or give this root CAP_DAC_OVERRIDE and CAP_SETPCAP"
    )


def _find_closed(prefix: Sequence[str], places: Sequence[Path]) -> Path | None:
    """The first of these places that a command after this prefix may not enter or execute."""
    return next((place for place in places if not _works([*prefix, "test", "-x", str(place)])), None)


def _refused(reason: str) -> EmbeddedPostgresError:
    advice = f"Or start the server as an ordinary user. {OWN_DATABASE.replace('Set', 'Or set')}"
    return EmbeddedPostgresError(f"Postgres refuses to run as root, and {reason}. {advice}")


def _works(command: list[str]) -> bool:
    try:
        done = subprocess.run(  # noqa: S603 - fixed programs, no shell
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
