"""A Debian root without a container engine: created by debootstrap, entered with its own mount namespace."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

SUITE = "bookworm"
PACKAGES = "python3,python3-venv,make,curl,git,ca-certificates"
"""The packages that the README requires."""
STEP_TIMEOUT_S = 600
_SHARED_MEMORY = "dev/shm"
_DEVICES = ("null", "zero", "full", "random", "urandom")


def require_tools(name: str) -> None:
    """Exit with one line if this machine cannot create such a root."""
    if os.geteuid() != 0:
        sys.exit(f"{name}: chroot and mounts need root: sudo make {name}")
    if shutil.which("debootstrap") is None:
        sys.exit(f"{name}: debootstrap is missing: apt-get install debootstrap")


def make_base(base: Path) -> None:
    """Create a minimal Debian with the packages above, unless the folder exists."""
    if base.exists():
        return
    draft = base.with_name(base.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.parent.mkdir(parents=True, exist_ok=True)
    run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(draft)])
    draft.rename(base)


def copy_base(base: Path, root: Path) -> None:
    run(["cp", "-a", str(base), str(root)])


def download_wheels(requirements: Path, wheels: Path) -> None:
    """Download the wheels for pip here, where the package index and its certificates are configured.

    A copy of the requirements in the folder marks the download as complete.
    """
    done = wheels / requirements.name
    if done.exists() and done.read_bytes() == requirements.read_bytes():
        return
    target = [
        "--only-binary",
        ":all:",
        "--python-version",
        "3.11",
        "--require-hashes",
        "--no-deps",
    ]  # the pins are complete
    run([sys.executable, "-m", "pip", "download", "-qq", *target, "-r", str(requirements), "-d", str(wheels)])
    shutil.copyfile(requirements, done)


def mounts(root: Path, *, wheels: Path | None = None) -> list[str]:
    """Shell lines for `unshare --mount`: /proc, the devices of a container, and the wheels at /wheels."""
    lines = [f"mount -t proc proc {root}/proc", f"mount -t tmpfs tmpfs {root}/dev", f"mkdir {root}/{_SHARED_MEMORY}"]
    lines.append(f"mount -t tmpfs -o mode=1777 tmpfs {root}/{_SHARED_MEMORY}")
    lines += [f"mkdir {root}/dev/pts", f"mount -t devpts -o newinstance,ptmxmode=0666 devpts {root}/dev/pts"]
    lines.append(f"ln -s pts/ptmx {root}/dev/ptmx")
    for name in _DEVICES:
        lines += [f"touch {root}/dev/{name}", f"mount --bind /dev/{name} {root}/dev/{name}"]
    if wheels is not None:
        lines += [f"mkdir -p {root}/wheels", f"mount --bind {wheels} {root}/wheels"]
    return lines


OFFLINE_PIP = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
"""Environment variables for commands in a root with wheels."""


def ids(root: Path, user: str) -> str:
    """`uid:gid` of a user in that root."""
    for line in (root / "etc/passwd").read_text().splitlines():
        name, _, uid, gid, *_ = line.split(":")
        if name == user:
            return f"{uid}:{gid}"
    raise ValueError(f"{root} has no user {user}")


def run(command: list[str]) -> None:
    """Run one step. If it fails, print its output, and exit with one line."""
    if (code := subprocess.run(command, check=False, timeout=STEP_TIMEOUT_S).returncode) != 0:
        sys.exit(f"{shlex.join(command)[:200]}: exit code {code}")
