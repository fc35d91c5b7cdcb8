"""Chooses the operating system user for Postgres, which refuses to run as root."""

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
_KEEP_DAC_OVERRIDE = ("--securebits=+no_setuid_fixup", "--inh-caps=+dac_override", "--ambient-caps=+dac_override")
"""Keeps CAP_DAC_OVERRIDE across the switch of users. Without the securebit, access(2) would ignore the capability for
every user but root, and Postgres checks its own programs with access(2)."""


@dataclass(frozen=True, slots=True)
class OsUser:
    """The user of Postgres. `prefix` precedes every command; files belong to `uid` (None: our own user).

    It is a prefix because uvloop's subprocesses have no `user` parameter.
    """

    prefix: tuple[str, ...] = ()
    uid: int | None = None
    reason: str = ""
    """Why Postgres runs as another user, for the log; empty if it runs as ours."""

    def allow_traversal(self, folder: Path) -> None:
        """Allow this user to enter a folder of ours, but not to list it."""
        if self.uid is not None and folder.stat().st_uid != self.uid:
            folder.chmod(stat.S_IMODE(folder.stat().st_mode) | stat.S_IXOTH)

    def chown(self, path: Path) -> None:
        if self.uid is not None:
            os.chown(path, self.uid, self.uid)

    def chown_tree(self, path: Path) -> None:
        """Change the owner of a folder and its content, unless the folder has it already. Links are not followed."""
        if self.uid is None or path.stat().st_uid == self.uid:
            return
        self.chown(path)
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                os.chown(Path(folder) / name, self.uid, self.uid, follow_symlinks=False)


def choose_os_user(data: Path, binaries: Binaries) -> OsUser:
    """The user for the folder `data`, which need not exist yet.

    Without root it is the current user; one without a name gets one in a user namespace, because initdb requires it.
    As root it is the owner of the data, if that is another user; else a user namespace, in which the files keep their
    owner and nothing runs as root; else an unprivileged user, who gets the data. Raises `EmbeddedPostgresError` if none
    of these works.
    """
    if os.geteuid() != 0:
        return OsUser() if _has_name(os.geteuid()) else _named()
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


def _named() -> OsUser:
    if user := _in_namespace():
        return user
    raise EmbeddedPostgresError(
        f"Postgres refuses to run for uid {os.geteuid()}, which has no name: add it to /etc/passwd. {OWN_DATABASE}"
    )


def _in_namespace() -> OsUser | None:
    """A user namespace, by util-linux' `unshare`. It execs the command, so the pid stays the same."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return None
    user = OsUser((unshare, "--user", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}", "--"))
    return user if _works([*user.prefix, "true"]) else None


def _switched(uid: int, data: Path, binaries: Binaries, *, why: str) -> OsUser:
    """Another user, by util-linux' `setpriv`.

    If that user cannot reach the programs or the data, it gets CAP_DAC_OVERRIDE only. That is no more than the user
    namespace allows, in which Postgres has the rights of the owner of root's files.
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
        return OsUser((*switch, "--"), uid, why)
    if _find_closed((*switch, *_KEEP_DAC_OVERRIDE), places) is None:
        return OsUser((*switch, *_KEEP_DAC_OVERRIDE, "--"), uid, f"{why}; with CAP_DAC_OVERRIDE, to reach {closed}")
    raise _refused(
        f"user {uid} cannot reach {closed}: move the project and DATA_DIR to a folder that every user can get to, such "
        "as /srv, or give this root CAP_DAC_OVERRIDE and CAP_SETPCAP"
    )


def _find_closed(prefix: Sequence[str], places: Sequence[Path]) -> Path | None:
    """The first of these paths that a command with this prefix may not enter or execute."""
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
