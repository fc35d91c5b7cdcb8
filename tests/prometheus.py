"""A real Prometheus on a loopback port, which scrapes a server every second and loads docs/alerts.yml."""

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import tools

ALERTS = Path(__file__).parents[1] / "docs" / "alerts.yml"
_CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{alerts}"]
scrape_configs:
  - job_name: ai-sdk-server
    authorization: {{credentials: "{token}"}}
    static_configs:
      - targets: ["127.0.0.1:{port}"]
"""
_TIMEOUT_S = 20.0


def promtool(*arguments: str, given: bytes = b"") -> str:
    """Run promtool. Returns its output; an exit code other than 0 fails the test."""
    program = tools.PROMETHEUS.require().with_name("promtool")
    done = subprocess.run([program, *arguments], input=given, capture_output=True, check=False, timeout=_TIMEOUT_S)
    output = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, output
    return output


@dataclass(frozen=True, slots=True)
class Prometheus:
    port: int

    def get(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer of its API; an error fails the test."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def query(self, expression: str) -> list[Any]:
        """The series of an expression now."""
        return list(self.get("query", query=expression)["result"])


@contextlib.contextmanager
def running_prometheus(folder: Path, *, port: int, token: str) -> Iterator[Prometheus]:
    """A Prometheus that scrapes the server at `port`, until the end of the context."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        own_port = probe.getsockname()[1]
    folder.mkdir(exist_ok=True)
    config = folder / "prometheus.yml"
    config.write_text(_CONFIG.format(alerts=ALERTS, port=port, token=token), encoding="utf-8")
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [
                tools.PROMETHEUS.require(),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{own_port}",
            ],
            env={"PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + _TIMEOUT_S
        while not _is_ready(own_port):
            assert process.poll() is None, (folder / "output").read_text()
            assert time.monotonic() < deadline, (folder / "output").read_text()
            time.sleep(0.05)
        yield Prometheus(own_port)
    finally:
        process.terminate()
        try:
            process.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_TIMEOUT_S)


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=_TIMEOUT_S) as response:
            return bool(response.status == 200)
    except OSError:
        return False
