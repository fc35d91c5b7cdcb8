"""Detects folders whose content is lost when the container is replaced."""

import os
from pathlib import Path

_CONTAINER_SIGNS = (Path("/.dockerenv"), Path("/run/.containerenv"))
_CONTAINER_VARIABLES = ("KOYEB_SERVICE_ID", "KOYEB_APP_NAME", "KUBERNETES_SERVICE_HOST", "FLY_APP_NAME", "RENDER")
_EPHEMERAL_FILE_SYSTEMS = frozenset({"overlay", "tmpfs", "ramfs", "aufs"})
_MOUNTS = Path("/proc/self/mountinfo")


def is_ephemeral(path: Path, *, mounts: Path = _MOUNTS) -> bool:
    """True for a container's own disk, without a volume at `path` or above. False if it cannot be determined."""
    in_container = any(sign.exists() for sign in _CONTAINER_SIGNS) or any(
        name in os.environ for name in _CONTAINER_VARIABLES
    )
    return in_container and _file_system_of(path, mounts) in _EPHEMERAL_FILE_SYSTEMS


def _file_system_of(path: Path, mounts: Path) -> str | None:
    """The type of the file system that holds `path`, by the longest mount point above it (proc(5), mountinfo)."""
    try:
        lines = mounts.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    wanted = path.absolute()
    best: tuple[int, str] | None = None
    for line in lines:
        fields = line.split()
        point = Path(fields[4].replace("\\040", " "))
        if wanted.is_relative_to(point) and (best is None or len(point.parts) >= best[0]):
            best = len(point.parts), fields[fields.index("-") + 1]
    return None if best is None else best[1]
