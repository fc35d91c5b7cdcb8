"""Starts the parts of a measurement, each in its own process."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
START_TIMEOUT_S = 60


@contextmanager
def process(
    module: str,
    *arguments: str,
    port: int,
    settings: dict[str, str] | None = None,
    max_data_bytes: int | None = None,
) -> "Iterator[subprocess.Popen[bytes]]":
    """A Python program of ours that listens on a port, for as long as the block lasts.

    `max_data_bytes` is what the kernel lets it have of private writable memory (RLIMIT_DATA), used or not.
    """
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(  # noqa: S603 - our own programs
            [sys.executable, "-m", module, *arguments],
            cwd=PROJECT,
            env=os.environ | (settings or {}),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            if max_data_bytes is not None:
                resource.prlimit(child.pid, resource.RLIMIT_DATA, (max_data_bytes, max_data_bytes))
            _wait_for(port, child)
            yield child
        except BaseException:
            output.seek(0)
            sys.stderr.write(output.read().decode()[-4000:])
            raise
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(60)


def _wait_for(port: int, child: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise RuntimeError("a program of the benchmark ended early")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=1):
                return
        except urllib.error.HTTPError as error:
            if error.code == 404:  # not our server, but it listens
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


def sign_up(port: int, email: str = "bench@example.com") -> str:
    """Create an account on the server at this port. Returns its token."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/auth/signup",
        data=json.dumps({"email": email, "password": "correct horse battery"}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - loopback
        return str(json.load(response)["token"])


def free_port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def allow_many_connections() -> None:
    """Raise the limit of open files to the hard limit, for this process and its children."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
