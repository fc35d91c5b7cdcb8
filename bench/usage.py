"""Measures memory and processor time of a measurement, and the load of other processes."""

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

_SAMPLE_S = 0.5


def memory_mb(pid: int, line: str = "VmRSS") -> float:
    """A memory counter of a process: `VmRSS` is the present value, `VmHWM` the peak."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{line}:")[1].split()[0]) / 1024


class ProcessorTime:
    """Processor time of a process and of the processes that it has started, from now on. Resolution: nanoseconds."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = self._read()

    def since(self) -> tuple[float, float]:
        """Microseconds of the process, and of its children. Those of a child that ended meanwhile are not counted."""
        spent = {pid: ns - self._before.get(pid, 0) for pid, ns in self._read().items()}
        return spent.pop(self._pid) / 1000, sum(spent.values()) / 1000

    def _read(self) -> dict[int, int]:
        family = (self._pid, *(child.pid for child in psutil.Process(self._pid).children(recursive=True)))
        return {pid: ns for pid in family if (ns := _scheduled_ns(pid)) is not None}


def _scheduled_ns(pid: int) -> int | None:
    """Time on a processor of all threads: the first field of schedstat (sched-stats of Linux' documentation)."""
    try:
        return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())
    except OSError:  # it ended meanwhile
        return None


class CpuUse:
    """The number of cores used by a server, its load and all other processes, from now until it is printed."""

    def __init__(self, server: int) -> None:
        self._server = psutil.Process(server)
        self._began = time.monotonic()
        self._before = self._read()

    def __str__(self) -> str:
        taken_s = time.monotonic() - self._began
        server, load, ours, everybody = (
            (now - before) / taken_s for now, before in zip(self._read(), self._before, strict=True)
        )
        return (
            f"cores used: server {server:.2f}, load {load:.2f}, Postgres and upstream {ours - server - load:.2f}, "
            f"others {everybody - ours:.2f} of {psutil.cpu_count()}"
        )

    def _read(self) -> tuple[float, float, float, float]:
        """CPU seconds of the server, of this process, of this process with its children, and of all processes."""
        load, times = psutil.Process(), psutil.cpu_times()
        ours = sum(_cpu_s(one) for one in (load, *load.children(recursive=True)))
        return _cpu_s(self._server), _cpu_s(load), ours, sum(times) - times.idle - times.iowait


def _cpu_s(one: psutil.Process) -> float:
    try:
        times = one.cpu_times()
    except psutil.Error:  # it ended meanwhile
        return 0.0
    return float(times.user + times.system)


def load_average() -> str:
    """The load of the machine. Results from a busy machine are not reliable."""
    return "load average {:.2f} {:.2f} {:.2f}".format(*os.getloadavg())


@dataclass(slots=True)
class Memory:
    """The peak memory of a server, alone and with its Postgres. Shared pages count once."""

    pid: int
    own_mb: float = 0.0
    all_mb: float = 0.0

    async def watch(self) -> None:
        """Measure until it is cancelled, or the server has ended."""
        while await asyncio.to_thread(self._sample):  # noqa: ASYNC110 - the kernel sends no events
            await asyncio.sleep(_SAMPLE_S)

    def _sample(self) -> bool:
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
