#!/usr/bin/env python3
"""Kills a server while it works, and shows that nothing is lost. Needs no key, no network and no database.

The server is one of its own: a free port, a temporary folder, the offline test double, none of your settings.
"""
# ruff: noqa: T201 - a script that talks to a person

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

ROOT = Path(__file__).resolve().parent.parent
AT_ONCE = 8
MODELS = ["offline/echo"] * 4 + ["offline/slow-2s"] * 16
START_TIMEOUT_S = 30.0
FINISH_TIMEOUT_S = 30.0
POLL_S = 0.1

_local = build_opener(ProxyHandler({}))  # a proxy of the environment cannot reach this machine's loopback


class DemoFailed(Exception):
    """A promise is broken; the message says which."""


class Server:
    """A server process on a data folder, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "server.log"
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.token = ""

    def start(self) -> float:
        """Start, and wait until it is ready. Returns the seconds that it took."""
        began = time.monotonic()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "server", "serve"],
                cwd=self._folder,  # so that no .env is read
                env=_environment(self._folder, self._port),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        _wait_for(self._is_ready, timeout_s=START_TIMEOUT_S, what="the server to be ready")
        return time.monotonic() - began

    def kill(self) -> int:
        """Kill it like a crash: no handler runs. Returns the pid."""
        assert self._process is not None  # noqa: S101 - only called after a start
        self._process.kill()
        self._process.wait()
        return self._process.pid

    def stop(self) -> None:
        """Stop it and its Postgres, in whatever state they are."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self.kill()
        for pid_file in self._folder.rglob("postmaster.pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(pid_file.read_text().split()[0]), signal.SIGQUIT)

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Any:
        """The JSON answer. Raises `HTTPError`, and `URLError` without a server."""
        request = Request(
            f"http://127.0.0.1:{self._port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self.token}", **headers},
        )
        with _local.open(request, timeout=10) as response:
            return json.load(response)

    def last_words(self) -> str:
        """The end of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:]) if self._log.exists() else ""

    def _is_ready(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise DemoFailed("the server ended instead of starting")
        try:
            self.call("GET", "/health/ready")
        except (HTTPError, URLError, OSError):
            return False
        return True


def main() -> int:
    """Run the demo; returns 0 if nothing was lost."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ai-sdk-server-demo-") as folder, _stopped(Server(Path(folder))) as server:
        try:
            run(server)
        except (DemoFailed, HTTPError, URLError, OSError) as error:
            print(f"\nFAILED: {error}\n\nThe end of the server's log:\n{server.last_words()}", file=sys.stderr)
            return 1
    print(f"{len(MODELS)} of {len(MODELS)} completed. Nothing was lost.   ({time.monotonic() - began:.0f} s)")
    return 0


def run(server: Server) -> None:
    """The whole demo. Raises `DemoFailed` when something is lost."""
    step("Starting a server with a new database in a temporary folder")
    print(f"   ready after {server.start():.1f} s")

    step("Signing up")
    account = {"email": "demo@example.com", "password": secrets.token_urlsafe(16)}
    server.token = server.call("POST", "/api/auth/signup", account)["token"]

    step(f"Sending {len(MODELS)} requests, most of which take 2 s; {AT_ONCE} run at once")
    prompts = {send(server, number, model): f"Request number {number}" for number, model in enumerate(MODELS, 1)}
    if len(prompts) != len(MODELS):
        raise DemoFailed("two requests were given the same id")
    _wait_for(lambda: count(server)["completed"] > 0, timeout_s=10, what="the first one to complete")
    show(count(server))

    print(f"\n=> kill -9 {server.kill()}: the server is gone, in the middle of its work")

    step("Starting it again on the same data")
    print(f"   ready after {server.start():.1f} s")

    step("Waiting until all are done")
    follow(server)
    verify(server, prompts)


def send(server: Server, number: int, model: str) -> str:
    """Send one request without waiting for its answer. Returns its id."""
    body = {"model_type": "text2text", "model": model, "input_data": {"prompt": f"Request number {number}"}}
    return str(server.call("POST", "/api/requests", body, Prefer="respond-async")["id"])


def verify(server: Server, prompts: dict[str, str]) -> None:
    """Check that every accepted request exists once, and is completed with the answer to its own prompt."""
    found = {item["id"]: item for item in server.call("GET", "/api/requests")}
    if found.keys() != prompts.keys():
        raise DemoFailed(f"{len(prompts.keys() - found.keys())} requests are missing")
    for request_id, prompt in prompts.items():
        item = found[request_id]
        if item["status"] != "completed" or f'"{prompt}"' not in item["output_data"]["output"]:
            raise DemoFailed(f"request {request_id} is {item['status']}: {item['error_msg'] or item['output_data']}")


def count(server: Server) -> Counter[str]:
    """The number of requests in each status, as the user sees them."""
    return Counter(item["status"] for item in server.call("GET", "/api/requests"))


def follow(server: Server) -> None:
    """Print every change until all requests are final."""
    shown: Counter[str] = Counter()

    def is_done() -> bool:
        nonlocal shown
        counts = count(server)
        if counts != shown:
            show(counts)
            shown = counts
        return not counts["pending"] + counts["processing"]

    _wait_for(is_done, timeout_s=FINISH_TIMEOUT_S, what="all to be done")


def step(text: str) -> None:
    print(f"\n=> {text}", flush=True)


def show(counts: Counter[str]) -> None:
    print("   " + ", ".join(f"{number} {status}" for status, number in sorted(counts.items()) if number), flush=True)


def _wait_for(is_done: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_done():
        if time.monotonic() > deadline:
            raise DemoFailed(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(POLL_S)


def _environment(folder: Path, port: int) -> dict[str, str]:
    """A minimal environment, so that your settings do not affect the demo."""
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "TMPDIR"}}
    return kept | {
        "PYTHONPATH": str(ROOT),
        "PORT": str(port),
        "HOST": "127.0.0.1",
        "DATA_DIR": str(folder / "data"),
        "INFERENCE_BACKEND": "offline",
        "CONCURRENCY": str(AT_ONCE),
    }


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def _stopped(server: Server) -> Iterator[Server]:
    try:
        yield server
    finally:
        server.stop()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
