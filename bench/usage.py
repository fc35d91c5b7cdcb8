"""What a measurement takes of the machine: memory, processor, and what others take of it meanwhile."""

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

_SAMPLE_S = 0.5


def memory_mb(pid: int, line: str = "VmRSS") -> float:
    """What the kernel counts for a process: `VmRSS` is now, `VmHWM` the most so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{line}:")[1].split()[0]) / 1024


class CpuUse:
    """How much of a core each process used, from the start of the measurement until it is printed."""

    def __init__(self, **pids: int) -> None:
        self._pids = pids
        self._began = time.monotonic()
        self._used_s = {name: _cpu_s(pid) for name, pid in pids.items()}

    def __str__(self) -> str:
        taken_s = time.monotonic() - self._began
        shares = {name: (_cpu_s(pid) - self._used_s[name]) / taken_s for name, pid in self._pids.items()}
        return "of a core: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items())


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def load_average() -> str:
    """How busy the machine was: figures from a busy one are worth little."""
    return "load average {:.2f} {:.2f} {:.2f}".format(*os.getloadavg())


@dataclass(slots=True)
class Memory:
    """The most that a server held, alone and together with its Postgres, whose shared pages count once."""

    pid: int
    own_mb: float = 0.0
    all_mb: float = 0.0

    async def watch(self) -> None:
        """Until it is cancelled, or the server is gone."""
        while await asyncio.to_thread(self._look):  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(_SAMPLE_S)

    def _look(self) -> bool:
        try:
            server = psutil.Process(self.pid)
            self.own_mb = max(self.own_mb, memory_mb(self.pid, "VmHWM"))
            family = (server, *server.children(recursive=True))
            self.all_mb = max(self.all_mb, sum(_pss_mb(one) for one in family))
        except (psutil.Error, IndexError):
            return False
        return True


def _pss_mb(one: psutil.Process) -> float:
    try:
        return float(one.memory_full_info().pss) / 2**20
    except psutil.Error:  # it ended meanwhile
        return 0.0
