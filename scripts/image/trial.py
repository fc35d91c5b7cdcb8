"""Starts a server from an image's root, uses it, stops it, and starts it again on the same volume."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn, Self

from scripts.client import call, free_port
from scripts.image import root as roots
from scripts.image.dockerfile import Config
from scripts.image.limits import memory_limit, peak_mb

MEMORY_BYTES = 512 * 1024 * 1024
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
_PROMPT = {"model_type": "text2text", "input_data": {"prompt": "hi"}}
_CREDENTIALS = {"email": "image@example.com", "password": "correct horse battery"}
_TICKS = os.sysconf("SC_CLK_TCK")


def try_out(root: Path, config: Config, *, volume: Path) -> None:
    """Exit with a sentence at the first fault."""
    subprocess.run(
        ["cp", "-a", str(root / "data"), str(volume)], check=True
    )  # like a container engine with a new volume
    port = free_port()
    with Trial(root, config, volume=volume, port=port) as first:
        token = call(port, "POST", "/api/auth/signup", body=_CREDENTIALS)["token"]
        answer = call(port, "POST", "/api/requests", token=token, body=_PROMPT)
        if answer["status"] != "completed":
            _fail(f"a request ended {answer['status']}: {answer['error_msg']}")
        first.stop()
    with Trial(root, config, volume=volume, port=port) as second:
        token = call(port, "POST", "/auth/signin", body=_CREDENTIALS)["token"]
        if [item["id"] for item in call(port, "GET", "/api/requests", token=token)] != [answer["id"]]:
            _fail("after a new start the history does not hold the request")
        second.stop()


class Trial:
    """One run of the server. `stop` asks for an orderly stop; leaving the block kills it."""

    def __init__(self, root: Path, config: Config, *, volume: Path, port: int) -> None:
        self._root = root
        self._config = config
        self._volume = volume
        self._port = port
        self._env = {"PORT": str(port), "INFERENCE_BACKEND": "offline"}
        self._limit = memory_limit(MEMORY_BYTES)

    def __enter__(self) -> Self:
        self._group = self._limit.__enter__()
        if self._group is None:
            print("This machine allows no control group: the memory is not limited")
        self._process = roots.start(
            self._root, config=self._config, data=self._volume, env=self._env, group=self._group
        )
        try:
            self._server = self._wait_ready()
            self._inspect()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if (server := self._first_process()) is not None:  # its whole namespace ends with process 1
            os.kill(server, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        self._limit.__exit__(None, None, None)

    def stop(self) -> None:
        os.kill(self._server, getattr(signal, self._config.stop_signal))
        code = self._process.wait(STOP_TIMEOUT_S)
        if code != 0:
            _fail(f"told to stop, the server ended with exit code {code}")
        if self._group is not None and (peak := peak_mb(self._group)) is not None:
            print(f"Stopped; at most {peak:.0f} MB of {MEMORY_BYTES // 1024**2}, Postgres and cached files included")

    def _wait_ready(self) -> int:
        """Wait until the server is healthy. Returns its process id outside of the namespace."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            if self._process.poll() is not None:
                _fail(f"the server ended with exit code {self._process.returncode} before it was ready")
            if time.monotonic() > deadline:
                _fail(f"not ready within {READY_TIMEOUT_S:g} s")
            try:
                call(self._port, "GET", "/health")
            except OSError:
                time.sleep(0.05)
            else:
                server = self._first_process()
                assert server is not None, "healthy without a process"
                return server

    def _first_process(self) -> int | None:
        """The process id of process 1 outside of the namespace."""
        pid = self._process.pid
        if self._process.poll() is not None:
            return None
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else None

    def _inspect(self) -> None:
        print(f"Ready after {_cpu_s(self._server):.2f} s of processor time")
        if Path(f"/proc/{self._server}").stat().st_uid == 0:
            _fail("the server runs as root")
        if not roots.check_health(self._root, config=self._config, env=self._env):
            _fail("the HEALTHCHECK says that a healthy server is not")


def _cpu_s(pid: int) -> float:
    """User and system time of the process, without children (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _fail(complaint: str) -> NoReturn:
    sys.exit(f"image: {complaint}")
