"""A log that nobody reads, or whose reader left, holds up no request and no stop; dropped lines are counted."""

import contextlib
import fcntl
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.processes import PROJECT, ServerProcess, until

PIPE_BYTES = 4096
REQUESTS = 9_000
"""Their lines are more than the pipe and the server's buffer of 1 MiB hold."""


@contextlib.contextmanager
def _server_on_pipe(tmp_path: Path, **settings: str) -> Iterator[tuple[ServerProcess, int]]:
    """A server whose stdout is a small pipe, and the end of the pipe to read from."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    settings = {"DATA_DIR": str(tmp_path / "data"), "PORT": str(port), "HOST": "127.0.0.1"} | settings
    settings |= {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen([sys.executable, "-m", "server"], cwd=tmp_path, env=settings, stdout=writing)
    os.close(writing)
    server = ServerProcess(tmp_path / "data", process=process, port=port)
    try:
        until(lambda: _is_healthy(server), timeout_s=30)
        yield server, reading
    finally:
        if server.is_running:
            server.signal(signal.SIGTERM)
            threading.Thread(target=_read_all, args=[reading], daemon=True).start()
            if not server.has_ended(within_s=40):
                server.kill_all()


@pytest.mark.skipif(sys.platform != "linux", reason="sets the size of a pipe")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_log_that_nobody_reads_holds_up_nothing_and_drops_are_counted(tmp_path: Path, workers: str) -> None:
    with _server_on_pipe(tmp_path, WORKERS=workers, LOG_FORMAT="json") as (server, reading):
        began = time.monotonic()
        slowest_s = _request_often(server, REQUESTS)
        print(f"{REQUESTS} requests in {time.monotonic() - began:.1f} s, slowest {slowest_s:.3f} s")
        server.signal(signal.SIGTERM)
        lines: list[bytes] = []
        reader = threading.Thread(target=lambda: lines.extend(_read_all(reading).splitlines()))
        reader.start()
        assert server.wait() == 0
        reader.join()
    events = [json.loads(line) for line in lines if line.startswith(b"{")]
    assert next(line for line in lines if not line.startswith(b"{")).startswith(b"Ready:  http://localhost:")
    dropped = sum(event["count"] for event in events if event["event"] == "log_lines_dropped")
    written = sum(event["event"] == "http" and event["route"] == "/health/live" for event in events)
    others = sum(event["event"] == "http" for event in events) - written
    print(f"{written} lines of requests written, {dropped} lines dropped")
    assert dropped > 0
    assert 0 <= written + dropped - REQUESTS <= 40, others


@pytest.mark.skipif(sys.platform != "linux", reason="sets the size of a pipe")
def test_a_stop_waits_one_second_for_a_log_that_nobody_reads(tmp_path: Path, *, patience: float) -> None:
    with _server_on_pipe(tmp_path) as (server, _):
        _request_often(server, 100)
        server.signal(signal.SIGTERM)
        began = time.monotonic()
        assert server.wait(10) == 0
        assert time.monotonic() - began < 2 + patience


def test_a_reader_of_the_log_that_leaves_takes_nothing_with_it(tmp_path: Path) -> None:
    with _server_on_pipe(tmp_path) as (server, reading):
        os.close(reading)
        _request_often(server, 200)
        assert server.process is not None
        process = psutil.Process(server.process.pid)
        before = process.cpu_times().user + process.cpu_times().system
        assert process.cpu_percent(interval=0.5) < 50
        assert process.cpu_times().user + process.cpu_times().system - before < 0.25
        server.signal(signal.SIGTERM)
        assert server.wait(10) == 0


def _request_often(server: ServerProcess, count: int) -> float:
    """Ask on one connection; returns how long the slowest answer took, in seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    slowest_s = 0.0
    with contextlib.closing(connection):
        for _ in range(count):
            began = time.monotonic()
            connection.request("GET", "/health/live")
            response = connection.getresponse()
            response.read()
            assert response.status == 200
            slowest_s = max(slowest_s, time.monotonic() - began)
    return slowest_s


def _is_healthy(server: ServerProcess) -> bool:
    with contextlib.suppress(OSError):
        return server.call("GET", "/health")[0] == 200
    return False


def _read_all(descriptor: int) -> bytes:
    data = b""
    with contextlib.suppress(OSError):
        while chunk := os.read(descriptor, 65536):
            data += chunk
    return data
