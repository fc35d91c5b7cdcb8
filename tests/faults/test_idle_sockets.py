"""More connections than there are places for: health checks are answered, others are served, descriptors are left."""

import contextlib
import http.client
import json
import resource
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.processes import ServerProcess, until

DESCRIPTORS, PLACES = 1024, 768
"""What 1,024 descriptors leave for clients with the default `CONCURRENCY`."""
FEW_DESCRIPTORS = ("sh", "-c", f'ulimit -n {DESCRIPTORS} && exec "$@"', "sh")


@contextlib.contextmanager
def _server(tmp_path: Path, *, prefix: tuple[str, ...] = FEW_DESCRIPTORS) -> Iterator[ServerProcess]:
    settings = {"RATE_LIMIT_PER_MINUTE": "0", "AUTH_RATE_LIMIT_PER_MINUTE": "0", "LOG_FORMAT": "json"}
    server = ServerProcess(tmp_path / "data", settings, prefix=prefix)
    server.start()
    try:
        server.sign_up()
        yield server
    finally:
        assert server.stop() == 0


@pytest.fixture(autouse=True)
def _enough_descriptors_for_us() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _connect(server: ServerProcess, stack: contextlib.ExitStack, request: bytes = b"") -> socket.socket:
    client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=40))
    client.sendall(request)
    return client


def _ask(server: ServerProcess, path: str, *, source: str = "127.0.0.1", body: object = None) -> int:
    """The status of one request on a connection of its own, 0 where there was no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10, source_address=(source, 0))
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"}
    with contextlib.closing(connection):
        try:
            method, sent = ("GET", None) if body is None else ("POST", json.dumps(body))
            connection.request(method, path, sent, headers)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0


CREATE = {"model_type": "text2text", "input_data": {"prompt": "hello"}}


@pytest.mark.timeout(300)
def test_idle_connections_keep_nobody_out(tmp_path: Path, *, is_soak: bool) -> None:
    prefix, count = ((), 10_050) if is_soak else (FEW_DESCRIPTORS, 1_100)
    with _server(tmp_path, prefix=prefix) as server, contextlib.ExitStack() as stack:
        health, creates, slowest_s = [], [], 0.0
        for number in range(count + 400):
            _connect(server, stack)
            if number % 25 == 0:
                began = time.monotonic()
                health += [_ask(server, path) for path in ("/health", "/health/live", "/health/ready")]
                slowest_s = max(slowest_s, (time.monotonic() - began) / 3)
            if number % 100 == 0:
                creates.append(_ask(server, "/api/requests", source="127.0.0.2", body=CREATE))
        print(f"beside {count + 400} idle connections, within {slowest_s:.3f} s: {Counter(health)}, {Counter(creates)}")
        assert set(health) == {200}
        assert set(creates) <= {200, 202}
        until(lambda: '"event":"connections_full"' in server.log.read_text())
        stack.close()
        assert _ask(server, "/api/requests") == 200
        assert server.log.read_text().count('"event":"connections_full"') <= 2
        assert '"event":"out_of_file_descriptors"' not in server.log.read_text()
        assert server.log.read_text().count('"event":"connections_limited"') == (0 if is_soak else 1)


@pytest.mark.timeout(120)
def test_where_every_place_waits_for_an_answer_health_checks_have_a_reserve(tmp_path: Path) -> None:
    with _server(tmp_path) as server, contextlib.ExitStack() as stack:
        _, created = server.create(model="offline/slow-20s")
        path = f"/api/requests/{created['id']}?wait=60"
        waiting = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.token}\r\n\r\n".encode()
        waiters = [_connect(server, stack, waiting) for _ in range(PLACES)]
        until(lambda: _ask(server, "/api/requests", source="127.0.0.2") == 503)
        for _ in range(10):
            for _ in range(20):
                _connect(server, stack)
            assert [_ask(server, path) for path in ("/health", "/health/live", "/health/ready")] == [200] * 3
            assert _ask(server, "/api/requests", source="127.0.0.2") == 503
        assert [waiter.recv(12) for waiter in waiters] == [b"HTTP/1.1 200"] * PLACES
        stack.close()
        assert server.create()[0] in {200, 202}


def test_the_last_descriptor_is_logged_once_and_survived(tmp_path: Path) -> None:
    with _server(tmp_path) as server, contextlib.ExitStack() as stack:
        assert server.process is not None
        used = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used + 10, DESCRIPTORS))
        for _ in range(60):
            _connect(server, stack)
        until(lambda: '"event":"out_of_file_descriptors"' in server.log.read_text())
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        stack.close()
        until(lambda: _ask(server, "/health") == 200)
        assert server.log.read_text().count('"event":"out_of_file_descriptors"') == 1
