"""Executes the steps of an image in a Debian root: COPY, RUN, CMD and HEALTHCHECK."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

from scripts import debian
from scripts.image.dockerfile import Config, Step

_NOT_IN_IMAGE = ("make", "curl", "git")


def make_base(machine: Path, base: Path) -> None:
    """A minimal Debian with `python` and `pip` in /usr/local, in place of python:3.13-slim-bookworm.

    Debian 12 has Python 3.11, the oldest supported version; the registry's image has 3.13.
    """
    debian.copy_base(machine, base)
    debian.run(["chroot", str(base), "dpkg", "--purge", *_NOT_IN_IMAGE])
    debian.run(["chroot", str(base), "python3", "-m", "venv", "/usr/local"])


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
    """RUN, as root and without a package index: pip uses the downloaded wheels."""
    env = config.env | debian.OFFLINE_PIP
    script = debian.mounts(root, wheels=wheels)
    script.append(_chroot(root, ["/bin/sh", "-c", f"cd {config.workdir} && {command}"], env))
    debian.run(["unshare", "--mount", "sh", "-ec", "\n".join(script)])
    (root / "wheels").rmdir()


def start(
    root: Path, *, config: Config, data: Path, env: dict[str, str], group: Path | None
) -> "subprocess.Popen[bytes]":
    """CMD, as its user and as process 1, on a read-only root with one volume at /data."""
    script = [f"mount --bind {root} {root}", f"mount -o remount,bind,ro {root}", *debian.mounts(root)]
    script.append(f"mount --bind {data} {root}/data")
    if group is not None:
        script.insert(0, f"echo 0 > {group}/cgroup.procs")
    script.append("exec " + _chroot(root, _in_workdir(config), config.env | env, user=debian.ids(root, config.user)))
    return subprocess.Popen(["unshare", "--mount", "--pid", "--fork", "sh", "-ec", "\n".join(script)])


def check_health(root: Path, *, config: Config, env: dict[str, str]) -> bool:
    """Run the command of HEALTHCHECK as the user of the image. True if the server is healthy."""
    command = _chroot(root, config.health, config.env | env, user=debian.ids(root, config.user))
    return subprocess.run(["sh", "-c", command], check=False, timeout=30).returncode == 0


def _in_workdir(config: Config) -> list[str]:
    return ["/bin/sh", "-c", f"cd {config.workdir} && exec {shlex.join(config.command)}"]


def _chroot(root: Path, command: list[str], env: dict[str, str], *, user: str = "0:0") -> str:
    variables = [f"{name}={value}" for name, value in env.items()]
    return shlex.join(["chroot", f"--userspec={user}", str(root), "env", "-i", *variables, *command])
