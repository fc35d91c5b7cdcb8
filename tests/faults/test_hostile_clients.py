"""Clients that vanish, or that speak to the server in order to harm it, and the process that they meet."""

import contextlib
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from server.commands.serve import DEAD_CLIENT_S
from tests import tools
from tests.faults.processes import PASSWORD, ServerProcess, prepare_data, server_process, until

OWN_NETWORK = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
READERS = """
import http.client, json, sys
port = int(sys.argv[1])

def ask(method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    headers |= {"Content-Type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    return connection

account = {"email": "cut@example.com", "password": sys.argv[2]}
token = "Bearer " + json.load(ask("POST", "/api/auth/signup", account).getresponse())["token"]
slow = {"model_type": "text2text", "input_data": {"prompt": "x"}, "model": "offline/slow-20s"}
for _ in range(6):
    created = ask("POST", "/api/requests", slow, Authorization=token, Prefer="respond-async")
    last = json.load(created.getresponse())["id"]
created.close()
stream = ask("GET", "/api/requests/events", Authorization=token)
waiting = ask("GET", f"/api/requests/{last}?wait=90", Authorization=token)
stream.getresponse()
print("reading", flush=True)
waiting.getresponse()
"""


@contextlib.contextmanager
def _server_in_own_network(data_dir: Path) -> Iterator[ServerProcess]:
    prepare_data(data_dir)
    server = ServerProcess(data_dir, {"CONCURRENCY": "1", "DRAIN_S": "0"}, prefix=OWN_NETWORK)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _inside(server: ServerProcess, *command: str) -> list[str]:
    assert server.process is not None
    return ["nsenter", "--net", f"--target={server.process.pid}", *command]


@pytest.mark.slow
@pytest.mark.timeout(180)
@tools.needs(tools.IP)
@pytest.mark.skipif(
    tools.IP.find() is not None
    and subprocess.run([*OWN_NETWORK, "true"], check=False, capture_output=True).returncode != 0,
    reason="this machine allows no network namespaces",
)
def test_h11_clients_whose_line_is_cut_are_freed_within_a_minute(tmp_path: Path) -> None:
    """The reader of a stream, to whom the server writes, and one who waits in silence."""
    with _server_in_own_network(tmp_path / "data") as server:
        command = _inside(server, sys.executable, "-c", READERS, str(server.port), PASSWORD)
        with subprocess.Popen(command, stdout=subprocess.PIPE) as reader:
            assert server.process is not None
            assert reader.stdout is not None
            assert reader.stdout.readline() == b"reading\n"
            sockets = Path(f"/proc/{server.process.pid}/net/tcp")
            until(lambda: len(_established(sockets, server.port)) == 2)
            subprocess.run(_inside(server, "ip", "link", "set", "lo", "down"), check=True)
            began = time.monotonic()
            until(lambda: not _established(sockets, server.port), timeout_s=DEAD_CLIENT_S + 20, step_s=0.5)
            print(f"freed after {time.monotonic() - began:.1f} s")
            assert time.monotonic() - began < 60
            reader.kill()


def _established(sockets: Path, port: int) -> list[str]:
    """The server's connections that the kernel still holds."""
    lines = [line.split() for line in sockets.read_text().splitlines()[1:]]
    return [line[1] for line in lines if line[1].endswith(f":{port:04X}") and line[3] == "01"]


def test_h18_no_process_of_the_server_dumps_its_memory(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        with server_process(tmp_path / "data") as server:
            assert server.process is not None
            family = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
            assert len(family) > 1
            assert {resource.prlimit(one.pid, resource.RLIMIT_CORE) for one in family} == {(0, 0)}
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
