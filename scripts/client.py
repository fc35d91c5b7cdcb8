"""An HTTP client for a server on this machine."""

import json
import socket
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

_local = build_opener(ProxyHandler({}))  # a proxy of the environment cannot reach this machine's loopback


def call(port: int, method: str, path: str, *, token: str = "", body: Any = None) -> Any:
    """Send one request, and return the JSON of its answer. Raises `OSError` without a server or for an error status."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    content = None if body is None else json.dumps(body).encode()
    request = Request(f"http://127.0.0.1:{port}{path}", content, headers, method=method)
    with _local.open(request, timeout=30) as response:
        return json.load(response)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
