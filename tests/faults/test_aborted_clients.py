"""Clients that leave in the middle, of a body or of an answer, leave nothing in the memory of the server."""

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import psutil
import pytest

from tests.faults.processes import ServerProcess, server_process, until

MIB = 1024 * 1024
ABORTS, ABORTS_SOAK, WARM_UP = 500, 10_000, 20
AT_ONCE = 10
"""So many are aborted before the server is waited for: what it holds for them at the same time is no growth."""
MAX_GROWTH = 10 * MIB
PROMPT = b"x" * 261_000
JSON = b'{"model_type":"text2text","input_data":{"prompt":"' + PROMPT
PNG = b"\x89PNG\r\n\x1a\n" + PROMPT
FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n' + PNG
LARGE_CREATES = 15


def _head(server: ServerProcess, start: str, *lines: str) -> bytes:
    head = [f"{start} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {server.token}", *lines, "", ""]
    return "\r\n".join(head).encode()


def _post(path: str, content_type: str, body: bytes) -> Callable[[ServerProcess], bytes]:
    """Most of a body, of which the rest never comes."""
    fields = (f"Content-Type: {content_type}", f"Content-Length: {len(body) + 1000}")
    return lambda server: _head(server, f"POST {path}", *fields) + body


def _chunked(server: ServerProcess) -> bytes:
    head = _head(server, "POST /api/requests", "Content-Type: application/json", "Transfer-Encoding: chunked")
    return head + f"{len(JSON):x}\r\n".encode() + JSON + b"\r\n"


def _broken_chunk(server: ServerProcess) -> bytes:
    return _chunked(server) + b"no number\r\n"


def _large_answer(server: ServerProcess) -> bytes:
    return _head(server, "GET /api/requests?limit=1000")


ABORTED = {
    "create": _post("/api/requests", "application/json", JSON),
    "create in chunks": _chunked,
    "create with a broken chunk": _broken_chunk,
    "chat": _post("/v1/chat/completions", "application/json", JSON),
    "sign-up": _post("/auth/v1/signup", "application/json", b'{"email":"' + b"x" * 7000),
    "body over the limit": _post("/api/requests", "application/json", JSON * 3),
    "upload": _post("/api/files", "image/png", PNG),
    "form": _post("/api/files", "multipart/form-data; boundary=b", FORM),
    "large answer": _large_answer,
}


@pytest.mark.timeout(1800)
def test_clients_that_leave_in_the_middle_leave_no_memory_behind(tmp_path: Path, *, is_soak: bool) -> None:
    count = ABORTS_SOAK if is_soak else ABORTS
    with server_process(tmp_path / "data", UPLOAD_QUOTA_MB="0") as server:
        assert server.process is not None
        server.sign_up()
        for _ in range(LARGE_CREATES):
            assert server.create("x" * 190_000, prefer="wait=30")[0] == 200
        memory = psutil.Process(server.process.pid).memory_info
        growths = {}
        for name, message in ABORTED.items():
            is_answer = name == "large answer"
            times = count // 10 if is_answer else count
            _abort(server, message(server), WARM_UP, reads_some=is_answer)
            before = memory().rss
            _abort(server, message(server), times, reads_some=is_answer)
            growths[name] = (memory().rss - before) / MIB
            print(f"{name}: {times} times, RSS {before / MIB:.0f} MiB and {growths[name]:+.1f}", flush=True)
    assert {name: growth for name, growth in growths.items() if growth * MIB > MAX_GROWTH} == {}


def _abort(server: ServerProcess, message: bytes, times: int, *, reads_some: bool) -> None:
    with server.log.open("rb") as log:
        log.seek(0, os.SEEK_END)
        for number in range(1, times + 1):
            _send_and_leave(server, message, reads_some=reads_some)
            if number % AT_ONCE == 0:
                _wait_for_requests(log, AT_ONCE)


def _send_and_leave(server: ServerProcess, message: bytes, *, reads_some: bool) -> None:
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=30) as client,
        contextlib.suppress(ConnectionError),  # the server refused the body before its end
    ):
        if reads_some:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(message)
        if reads_some:
            assert client.recv(100)


def _wait_for_requests(log: BinaryIO, count: int) -> None:
    """Until the log has the lines of so many requests more, which the server writes when it is done with them."""
    done = 0

    def is_done() -> bool:
        nonlocal done
        done += log.read().count(b'"event":"http"')
        return done >= count

    until(is_done, step_s=0.002)
