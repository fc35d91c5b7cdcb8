"""The nginx of docs/proxies.md in front of a server: each of its lines is needed, and together they are enough."""

import contextlib
import http.client
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from server.http.server import KEEPALIVE_S
from server.settings import Settings
from tests import tools
from tests.faults.processes import PASSWORD, ServerProcess, server_process
from tests.nginx import documented, running_nginx, value_of, without

pytestmark = tools.needs(tools.NGINX)

TRUSTED = "127.0.0.1"
"""nginx's address. Clients come from other addresses of the loopback network."""
CLIENT, OTHER_CLIENT = "127.0.0.2", "127.0.0.3"
SIGN_INS = 3
PNG = b"\x89PNG\r\n\x1a\n" + bytes(15 * 1024 * 1024)
SHORT_S = 6
MANY = 60
"""More pieces than a stream has that nginx collects in its buffers of 4 KiB, and fewer than its events."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    settings = {
        "TRUSTED_PROXIES": TRUSTED,
        "PUBLIC_URL": "https://example.com/ai",
        "AUTH_RATE_LIMIT_PER_MINUTE": str(SIGN_INS),
    }
    with server_process(tmp_path_factory.mktemp("proxies") / "data", **settings) as process:
        process.sign_up()
        yield process


@pytest.fixture
def nginx(tmp_path: Path, server: ServerProcess) -> Iterator[int]:
    with running_nginx(tmp_path / "nginx", documented(), upstream=server.port) as port:
        yield port


class Client:
    """Requests through nginx, on a connection of their own."""

    def __init__(self, server: ServerProcess, port: int, address: str = CLIENT) -> None:
        self._token = server.token
        self._port = port
        self._address = address

    @contextlib.contextmanager
    def open(self, method: str, path: str, body: Any = None, **headers: str) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60, source_address=(self._address, 0))
        sent = {"Authorization": f"Bearer {self._token}"}
        if isinstance(body, dict):
            body, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        with contextlib.closing(connection):
            connection.request(method, path, body, sent | {name.replace("_", "-"): headers[name] for name in headers})
            yield connection.getresponse()

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, bytes]:
        with self.open(method, path, body, **headers) as response:
            return response.status, response.headers, response.read()

    def upload(self) -> int:
        try:
            return self.send("POST", "/api/files", PNG, Content_Type="image/png")[0]
        except (BrokenPipeError, ConnectionResetError):  # nginx has answered 413 and closed
            return 413

    def create(self, model: str) -> dict[str, Any]:
        return {"model_type": "text2text", "input_data": {"prompt": "hi"}, "model": model}

    def pieces_of_a_stream(self) -> int:
        """How many pieces the 300 events of a stream of 6 s arrive in."""
        with self.open("POST", "/api/requests", self.create("offline/long-stream"), Accept="text/event-stream") as got:
            assert got.status == 200
            return sum(1 for _ in iter(lambda: got.read1(65536), b""))

    def sign_in(self) -> int:
        body = {"email": "stranger@example.com", "password": PASSWORD}
        return self.send("POST", "/api/auth/signin", body, X_Forwarded_For="203.0.113.9")[0]


def test_around_events_come_through_nginx_as_they_are_made(server: ServerProcess, nginx: int) -> None:
    assert Client(server, nginx).pieces_of_a_stream() > MANY


@pytest.mark.parametrize(
    ("is_unbuffered", "is_obeyed", "passes"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_around_what_keeps_nginx_from_collecting_events(
    tmp_path: Path,
    server: ServerProcess,
    is_unbuffered: bool,  # noqa: FBT001
    is_obeyed: bool,  # noqa: FBT001
    passes: bool,  # noqa: FBT001
) -> None:
    # Over HTTP/1.0, nginx's default for long, an answer has no chunks that nginx would pass on one by one.
    blocks = documented().replace("proxy_http_version 1.1;", "proxy_http_version 1.0;")
    blocks = blocks if is_unbuffered else without(blocks, "proxy_buffering")
    if not is_obeyed:  # as behind another nginx, which removes the header
        blocks = blocks.replace("location / {", "proxy_ignore_headers X-Accel-Buffering;\nlocation / {")
    with running_nginx(tmp_path / "nginx", blocks, upstream=server.port) as port:
        assert (Client(server, port).pieces_of_a_stream() > MANY) is passes


def test_around_an_upload_of_15_mb_passes_nginx(tmp_path: Path, server: ServerProcess, nginx: int) -> None:
    assert Client(server, nginx).upload() == 201
    with running_nginx(
        tmp_path / "default", without(documented(), "client_max_body_size"), upstream=server.port
    ) as port:
        assert Client(server, port).upload() == 413
    largest_mb = int(value_of(documented(), "client_max_body_size").removesuffix("m"))
    assert largest_mb > Settings.model_fields["max_upload_mb"].default


def test_around_heartbeats_outlast_the_read_timeout_of_nginx(tmp_path: Path, server: ServerProcess) -> None:
    """The same with a time-out of seconds: a stream lives, an answer that is held longer without a byte does not."""
    blocks = re.sub(r"proxy_read_timeout \w+;", f"proxy_read_timeout {SHORT_S}s;", documented())
    with running_nginx(tmp_path / "nginx", blocks, upstream=server.port) as port:
        client = Client(server, port)
        slow = client.create("offline/slow-20s")
        status, _, body = client.send("POST", "/api/requests", slow, Accept="text/event-stream")
        assert (status, b"\nevent: completed\n" in body or b"event: done" in body) == (200, True), body[-300:]
        began = time.monotonic()
        status, _, _ = client.send("POST", "/api/requests", slow)
        assert status == 504
        assert time.monotonic() - began < 20
    configured_s = int(value_of(documented(), "proxy_read_timeout").removesuffix("s"))
    assert configured_s > Settings.model_fields["max_wait_s"].default + 10


def test_around_clients_are_told_apart_by_their_addresses_through_nginx(
    tmp_path: Path, server: ServerProcess, nginx: int
) -> None:
    """The address that a client makes up in its own header counts for nothing."""
    client, other = Client(server, nginx), Client(server, nginx, OTHER_CLIENT)
    assert [client.sign_in() for _ in range(SIGN_INS + 1)] == [401] * SIGN_INS + [429]
    assert other.sign_in() == 401
    blocks = without(documented(), "proxy_set_header X-Forwarded-For")
    with running_nginx(tmp_path / "default", blocks, upstream=server.port) as port:
        client, other = Client(server, port, "127.0.0.4"), Client(server, port, "127.0.0.5")
        statuses = [client.sign_in() for _ in range(SIGN_INS + 1)]
        assert (statuses[-1], other.sign_in()) == (429, 429)


def test_around_tags_and_compression_pass_nginx(server: ServerProcess, nginx: int) -> None:
    client = Client(server, nginx)
    status, headers, body = client.send("GET", "/api/models", Accept_Encoding="gzip")
    assert (status, headers["Content-Encoding"], body[:2]) == (200, "gzip", b"\x1f\x8b")
    status, again, body = client.send("GET", "/api/models", If_None_Match=headers["ETag"])
    assert (status, again["ETag"], body) == (304, headers["ETag"], b"")
    assert client.send("HEAD", "/api/models")[0] == 200


def test_around_below_a_path_references_begin_with_the_public_address(server: ServerProcess, nginx: int) -> None:
    client = Client(server, nginx)
    for _ in range(2):
        echo = client.create("offline/echo")
        status, headers, _ = client.send("POST", "/ai/api/requests", echo, Prefer="respond-async")
        assert status == 202
    assert headers["Location"].startswith("https://example.com/ai/api/requests/")
    assert client.send("GET", headers["Location"].removeprefix("https://example.com"))[0] == 200
    status, headers, _ = client.send("GET", "/ai/api/requests?limit=1")
    assert (status, headers["Link"].startswith("<https://example.com/ai/api/requests?")) == (200, True)


def test_around_nginx_names_requests(server: ServerProcess, nginx: int) -> None:
    names = {Client(server, nginx).send("GET", "/health")[1]["X-Request-Id"] for _ in range(2)}
    assert [bool(re.fullmatch(r"[0-9a-f]{32}", name)) for name in names] == [True] * 2


def test_around_nginx_uses_its_connections_again_and_closes_them_first(
    tmp_path: Path, server: ServerProcess, nginx: int
) -> None:
    def ports_after_calls(port: int) -> list[set[int]]:
        """nginx's own ports of its connections to the server, after each of some calls."""
        ports = []
        for _ in range(4):
            assert Client(server, port).send("GET", "/health")[0] == 200
            ports.append(_peers_of(server))
        return ports

    assert set.intersection(*ports_after_calls(nginx))
    for directive in ("keepalive", 'proxy_set_header Connection ""'):
        blocks = without(documented(), directive)
        with running_nginx(tmp_path / "default", blocks, upstream=server.port) as port:
            others = _peers_of(server)
            assert not set.intersection(*ports_after_calls(port)) - others, directive
    assert int(value_of(documented(), "keepalive_timeout").removesuffix("s")) < KEEPALIVE_S


def test_around_a_refusal_of_an_upload_comes_before_its_end(tmp_path: Path, server: ServerProcess, nginx: int) -> None:
    def first_line(port: int) -> bytes:
        head = f"POST /api/files HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(PNG)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(head.encode() + PNG[:1000])
            with contextlib.suppress(TimeoutError):
                return client.recv(1000).partition(b"\r\n")[0]
            return b""

    assert first_line(nginx) == b"HTTP/1.1 401 Unauthorized"
    blocks = without(documented(), "proxy_request_buffering")
    with running_nginx(tmp_path / "default", blocks, upstream=server.port) as port:
        assert first_line(port) == b""


def test_around_chunked_creates_and_expectations_pass_nginx(server: ServerProcess, nginx: int) -> None:
    client = Client(server, nginx)
    body = json.dumps(client.create("offline/echo")).encode()
    with client.open(
        "POST", "/api/requests", iter([body[:10], body[10:]]), Content_Type="application/json"
    ) as response:
        assert response.status == 200
    status, _, _ = client.send("POST", "/api/requests", client.create("offline/echo"), Expect="100-continue")
    assert status == 200


def _peers_of(server: ServerProcess) -> set[int]:
    """The ports of the other ends of the server's open connections."""
    assert server.process is not None
    connections = psutil.Process(server.process.pid).net_connections(kind="tcp")
    return {one.raddr.port for one in connections if one.status == "ESTABLISHED" and one.laddr.port == server.port}
