"""Real server processes, started and killed as an operator or the kernel would."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.prepared import prepare

PROJECT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 30.0
PASSWORD = "correct horse battery"
NO_AUTHORITIES = {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}
"""For a server's environment: it talks to fakes only, and to read the system's authorities takes 0.1 s of a start."""


@dataclass(slots=True)
class ServerProcess:
    """A server on a port of its own choice, its output in a file."""

    data_dir: Path
    settings: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    port: int = 0
    token: str = ""
    prefix: tuple[str, ...] = ()
    """Put before the command: a program that runs the server under its supervision."""

    @property
    def log(self) -> Path:
        return self.data_dir.with_suffix(".log")

    def start(self) -> float:
        """Start and wait for the line that says it is ready; returns the seconds that took."""
        began = time.monotonic()
        offset = self.launch()
        while time.monotonic() - began < START_TIMEOUT_S:
            text = self.log.read_bytes()[offset:].decode()
            if "\nReady:" in "\n" + text and "Data:" in text:
                self.port = int(text.split("Ready:  http://localhost:")[1].split()[0])
                return time.monotonic() - began
            if self.process is None or self.process.poll() is not None:
                break
            time.sleep(0.01)
        self.kill_all()
        raise AssertionError(f"the server did not get ready:\n{self.log.read_text()}")

    def launch(self) -> int:
        """Start, and wait for nothing; returns where in the log its output begins."""
        environment = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "TMPDIR"}}
        environment |= {"DATA_DIR": str(self.data_dir), "PORT": str(self.port), "HOST": "127.0.0.1", "SIGN_UPS": "open"}
        environment |= self.settings
        if "STORAGE_URL" not in self.settings:  # the client for buckets does not begin without them
            environment |= NO_AUTHORITIES
        environment["PYTHONPATH"] = str(PROJECT)
        with self.log.open("ab") as output:
            offset = output.tell()
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "server", "serve"],
                cwd=self.data_dir.parent,  # not the project, whose `.env` is a person's own
                env=environment,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )
        return offset

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def has_ended(self, *, within_s: float) -> bool:
        """Whether it ends by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(within_s)
        return not self.is_running

    def kill(self) -> None:
        """kill -9, and nothing else: an embedded Postgres stays behind."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def kill_all(self) -> None:
        """The same, with whatever the process has started that is not a Postgres; nothing happens if it has ended."""
        if not self.is_running:
            return
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                if child.name() != "postgres":
                    child.kill()
        self.kill()

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 40) -> int:
        assert self.process is not None
        return self.process.wait(timeout_s)

    async def wait_logged(self, text: str, count: int = 1, *, timeout_s: float = 30.0) -> None:
        """Until the log holds this text so often."""
        async with asyncio.timeout(timeout_s):
            while self.log.read_text().count(text) < count:  # noqa: ASYNC110 - another process tells nobody
                await asyncio.sleep(0.05)

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()

    def call(
        self, method: str, path: str, body: Any = None, *, timeout_s: float = 100, **headers: str
    ) -> tuple[int, Any]:
        """One request on a connection of its own; returns status and JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        if body is not None:
            headers["Content-Type"] = "application/json"
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            content = response.read()
            return response.status, json.loads(content) if content else None

    def sign_up(self, email: str | None = None) -> None:
        email = email or f"{self.data_dir.name}@example.com"
        status, body = self.call("POST", "/api/auth/signup", {"email": email, "password": PASSWORD})
        assert status == 201, body
        self.token = body["token"]

    def create(self, prompt: str = "hello", *, prefer: str = "respond-async", **fields: Any) -> tuple[int, Any]:
        body = {"model_type": "text2text", "input_data": {"prompt": prompt}, **fields}
        return self.call("POST", "/api/requests", body, Prefer=prefer)

    def history(self) -> list[Any]:
        status, body = self.call("GET", "/api/requests?limit=1000")
        assert status == 200, body
        return list(body)


def until(condition: Any, *, timeout_s: float = 20.0, step_s: float = 0.05) -> None:
    """Poll another process until something holds; there is no event to await across processes."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came to pass"
        time.sleep(step_s)


def run_command(*command: str, data_dir: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the server to its end."""
    environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(data_dir)} | NO_AUTHORITIES | settings
    return subprocess.run(
        [sys.executable, "-m", "server", *command],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def prepare_data(data_dir: Path) -> Path:
    """Make it a folder in which a server has been, with an embedded database that is ready and has no rows."""
    prepare("data", data_dir, _make_data)
    return data_dir


def _make_data(data_dir: Path) -> None:
    server = ServerProcess(data_dir)
    server.start()
    assert server.stop() == 0
    server.log.unlink()


@contextlib.contextmanager
def server_process(data_dir: Path, **settings: str) -> Iterator[ServerProcess]:
    """A started server that is gone at the end, its Postgres included.

    A new `data_dir` is prepared. In a folder that exists and is empty, the server starts for the first time.
    """
    if not ("DATABASE_URL" in settings or data_dir.exists()):
        prepare_data(data_dir)
    server = ServerProcess(data_dir, {"RATE_LIMIT_PER_MINUTE": "0", "AUTH_RATE_LIMIT_PER_MINUTE": "0"} | settings)
    server.start()
    try:
        yield server
    finally:
        code = server.process.poll() if server.process is not None else None
        if code is not None and code < 0:
            server.start()  # what a kill left behind is taken up, and stopped in order
        if code != 0:
            server.stop()


@contextlib.asynccontextmanager
async def serving(data_dir: Path, **settings: str) -> AsyncIterator[ServerProcess]:
    """The same, signed in, for a test whose event loop is needed by what the server talks to."""
    stack = contextlib.ExitStack()
    server = await asyncio.to_thread(stack.enter_context, server_process(data_dir, **settings))
    try:
        await asyncio.to_thread(server.sign_up)
        yield server
    finally:
        await asyncio.to_thread(stack.close)
