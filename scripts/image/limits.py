"""A memory limit for a process and its children, by a control group, if this machine allows one."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def memory_limit(max_bytes: int) -> Iterator[Path | None]:
    """A new control group with that limit, without swap. None if it cannot be created; then there is no limit."""
    for parent, limit, swap in (
        (_GROUPS, "memory.max", "memory.swap.max"),  # version 2
        (_GROUPS / "memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),  # version 1
    ):
        group = parent / f"ai-sdk-server-{os.getpid()}"
        try:
            group.mkdir()
            (group / limit).write_text(str(max_bytes))
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        with contextlib.suppress(OSError):  # the kernel has no swap accounting
            (group / swap).write_text("0" if swap.endswith("swap.max") else str(max_bytes))
        try:
            yield group
        finally:
            with contextlib.suppress(OSError):
                group.rmdir()
        return
    yield None


def peak_mb(group: Path) -> float | None:
    """The peak memory of the group, including the page cache."""
    for name in ("memory.peak", "memory.max_usage_in_bytes"):
        with contextlib.suppress(OSError):
            return int((group / name).read_text()) / 1024**2
    return None
