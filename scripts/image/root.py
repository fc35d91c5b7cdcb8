"""Roots to run an image's steps in, without a container engine: Debian by debootstrap, chroot in a mount namespace."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from scripts.image.dockerfile import Config, Step

SUITE = "bookworm"
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
STEP_TIMEOUT_S = 600
_SHARED_MEMORY = "dev/shm"
_DEVICES = ("null", "zero", "full", "random", "urandom")


def make_base(base: Path) -> None:
    """Debian's minimum with `python` and `pip` in /usr/local: what stands for python:3.13-slim-bookworm.

    Debian 12 brings Python 3.11, the oldest that the server runs on; the image of the registry has 3.13.
    """
    if base.exists():
        return
    draft = base.with_name(base.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    _run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(draft)])
    _run(["chroot", str(draft), "python3", "-m", "venv", "/usr/local"])
    draft.rename(base)


def download_wheels(requirements: Path, wheels: Path) -> None:
    """What pip will install, fetched here, where the package index and its certificates are set up."""
    target = ["--only-binary", ":all:", "--python-version", "3.11", "--require-hashes"]
    _run([sys.executable, "-m", "pip", "download", "-q", *target, "-r", str(requirements), "-d", str(wheels)])


def copy(step: Step, *, context: Path, root: Path, others: dict[str, Path], config: Config) -> None:
    """COPY, from the project or from an earlier stage."""
    words = step.words
    source_root = context
    if words[0].startswith("--from="):
        source_root = others[words.pop(0).removeprefix("--from=")]
    *sources, target = words
    into = root / os.path.normpath(Path(config.workdir) / target).lstrip("/")
    for name in sources:
        source = source_root / name.lstrip("/")
        if source.is_dir():
            shutil.copytree(
                source, into, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            into.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, into / source.name)


def run_step(command: str, *, root: Path, config: Config, wheels: Path) -> None:
    """RUN, as root and without a package index: pip finds the wheels that were fetched before."""
    env = config.env | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
    script = [*_mounts(root), f"mkdir -p {root}/wheels", f"mount --bind {wheels} {root}/wheels"]
    script.append(_chroot(root, ["/bin/sh", "-c", f"cd {config.workdir} && {command}"], env))
    _run(["unshare", "--mount", "sh", "-ec", "\n".join(script)])
    (root / "wheels").rmdir()


def start(
    root: Path, *, config: Config, data: Path, env: dict[str, str], group: Path | None
) -> "subprocess.Popen[bytes]":
    """CMD, as its user and as process 1, on a read-only root with one volume at /data."""
    script = [f"mount --bind {root} {root}", f"mount -o remount,bind,ro {root}", *_mounts(root)]
    script.append(f"mount --bind {data} {root}/data")
    if group is not None:
        script.insert(0, f"echo 0 > {group}/cgroup.procs")
    script.append("exec " + _chroot(root, _in_workdir(config), config.env | env, user=_ids(root, config.user)))
    return subprocess.Popen(["unshare", "--mount", "--pid", "--fork", "sh", "-ec", "\n".join(script)])


def check_health(root: Path, *, config: Config, env: dict[str, str]) -> bool:
    """HEALTHCHECK's command, as the user of the image; true when it says that the server is well."""
    command = _chroot(root, config.health, config.env | env, user=_ids(root, config.user))
    return subprocess.run(["sh", "-c", command], check=False, timeout=30).returncode == 0


def _in_workdir(config: Config) -> list[str]:
    return ["/bin/sh", "-c", f"cd {config.workdir} && exec {shlex.join(config.command)}"]


def _mounts(root: Path) -> list[str]:
    """/proc and the devices that a container has."""
    lines = [f"mount -t proc proc {root}/proc", f"mount -t tmpfs tmpfs {root}/dev", f"mkdir {root}/{_SHARED_MEMORY}"]
    lines.append(f"mount -t tmpfs -o mode=1777 tmpfs {root}/{_SHARED_MEMORY}")
    for name in _DEVICES:
        lines += [f"touch {root}/dev/{name}", f"mount --bind /dev/{name} {root}/dev/{name}"]
    return lines


def _chroot(root: Path, command: list[str], env: dict[str, str], *, user: str = "0:0") -> str:
    variables = [f"{name}={value}" for name, value in env.items()]
    return shlex.join(["chroot", f"--userspec={user}", str(root), "env", "-i", *variables, *command])


def _ids(root: Path, user: str) -> str:
    """`uid:gid` of a user of that root."""
    for line in (root / "etc/passwd").read_text().splitlines():
        name, _, uid, gid, *_ = line.split(":")
        if name == user:
            return f"{uid}:{gid}"
    raise ValueError(f"the image has no user {user}")


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, timeout=STEP_TIMEOUT_S)
