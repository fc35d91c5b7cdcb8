"""What a server process does when it is killed, stopped, or started twice."""

import contextlib
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.processes import PROJECT, ServerProcess, server_process, until


def test_nothing_that_was_accepted_is_lost_by_a_kill(tmp_path: Path) -> None:
    with server_process(tmp_path / "data", CONCURRENCY="4") as server:
        server.sign_up()
        accepted = [server.create(f"number {number}", model="offline/slow-2s")[1]["id"] for number in range(12)]
        server.kill()
        assert server.start() < 5
        until(lambda: {item["status"] for item in server.history()} == {"completed"}, timeout_s=30)
        assert sorted(item["id"] for item in server.history()) == sorted(accepted)


def test_sigterm_lets_running_requests_end_and_their_waiters_see_it(tmp_path: Path) -> None:
    answers: list[tuple[int, Any]] = []
    with server_process(tmp_path / "data") as server:
        server.sign_up()
        waiters = [
            threading.Thread(target=lambda: answers.append(server.create(prefer="wait=60", model="offline/slow-2s")))
            for _ in range(8)
        ]
        for waiter in waiters:
            waiter.start()
        until(lambda: len(server.history()) == 8)
        assert server.stop() == 0
        for waiter in waiters:
            waiter.join(10)
        assert [status for status, _ in answers] == [200] * 8
        assert {item["status"] for _, item in answers} == {"completed"}


def test_a_drain_that_is_too_short_hands_back_and_loses_nothing(tmp_path: Path) -> None:
    answers: list[tuple[int, Any]] = []
    with server_process(tmp_path / "data", DRAIN_S="0.2") as server:
        server.sign_up()
        waiter = threading.Thread(
            target=lambda: answers.append(server.create(prefer="wait=60", model="offline/slow-2s"))
        )
        waiter.start()
        until(lambda: len(server.history()) == 1)
        assert server.stop() == 0
        waiter.join(10)
        [(status, item)] = answers
        assert (status, item["status"]) in {(202, "processing"), (202, "pending")}
        server.start()
        until(lambda: server.history()[0]["status"] == "completed")
        assert server.history()[0]["attempt"] == 1


def test_a_second_signal_ends_the_drain(tmp_path: Path) -> None:
    with server_process(tmp_path / "data", DRAIN_S="60") as server:
        server.sign_up()
        server.create(model="offline/slow-20s")
        server.signal(signal.SIGTERM)
        until(lambda: '"event":"draining"' in server.log.read_text())
        server.signal(signal.SIGTERM)
        assert server.wait(10) == 0


def test_while_draining_new_work_is_refused_and_readiness_fails(tmp_path: Path) -> None:
    with server_process(tmp_path / "data") as server:
        server.sign_up()
        server.create(model="offline/slow-2s")
        server.signal(signal.SIGTERM)
        until(lambda: '"event":"draining"' in server.log.read_text())
        assert server.call("GET", "/health/ready")[0] == 503
        status, body = server.create()
        assert (status, body["code"]) == (503, "SERVER_ERROR")
        assert server.wait() == 0


def test_a_second_server_on_the_same_data_is_refused(tmp_path: Path) -> None:
    with server_process(tmp_path / "data") as server:
        assert server.process is not None
        refused = _run("serve", DATA_DIR=str(server.data_dir), PORT="0")
        assert refused.returncode == 2
        assert str(server.process.pid) in refused.stderr
        assert "DATA_DIR" in refused.stderr


def test_a_port_in_use_is_named_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = _run("serve", DATA_DIR=str(tmp_path / "data"), PORT=port, HOST="127.0.0.1")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert port in refused.stderr
    assert not (tmp_path / "data").exists()


def test_settings_that_cannot_work_refuse_with_a_line_each(tmp_path: Path) -> None:
    refused = _run("serve", DATA_DIR=str(tmp_path / "data"), PORT="abc", SUPABASE_JWT_SECRET="too-short-canary")
    assert refused.returncode == 2
    assert refused.stderr.count("Cannot start: ") == 2
    assert "canary" not in refused.stderr + refused.stdout


def test_workers_share_a_port_and_end_together(tmp_path: Path) -> None:
    with server_process(tmp_path / "data", WORKERS="2", CONCURRENCY="2") as server:
        server.sign_up()
        assert server.process is not None
        workers = _workers_of(server)
        assert len(workers) == 2
        replies = [server.create(f"number {number}", prefer="wait=30") for number in range(10)]
        assert {status for status, _ in replies} == {200}
        workers[0].kill()
        until(lambda: len(_workers_of(server)) == 2)
        assert server.create(prefer="wait=30")[0] == 200
        assert server.stop() == 0
        until(lambda: not any(worker.is_running() for worker in workers))


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    with server_process(tmp_path / "data", WORKERS="2") as server:
        workers = _workers_of(server)
        server.kill()
        until(lambda: not any(worker.is_running() for worker in workers))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_server_at_rest_stays_small(tmp_path: Path) -> None:
    with server_process(tmp_path / "data") as server:
        assert server.process is not None
        server.sign_up()
        server.create(prefer="wait=10")
        resident_mib = psutil.Process(server.process.pid).memory_info().rss / 2**20
        print(f"resident memory at rest: {resident_mib:.0f} MiB")
        assert resident_mib <= 100


def _workers_of(server: ServerProcess) -> list[psutil.Process]:
    """The children that serve; one that was just killed does not count."""
    assert server.process is not None
    workers = []
    for child in psutil.Process(server.process.pid).children():
        with contextlib.suppress(psutil.Error):
            if "worker" in child.cmdline():
                workers.append(child)
    return workers


def _run(command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", **settings}
    return subprocess.run(
        [sys.executable, "-m", "server", command],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_database_that_is_away_at_the_start_is_waited_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    settings = {
        "DATABASE_URL": "postgresql://nobody:canary@127.0.0.1:1/nothing",
        "INFERENCE_BACKEND": "offline",
        "PORT": str(port),
        "HOST": "127.0.0.1",
        "DATA_DIR": str(tmp_path / "data"),
    }
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "server"], cwd=PROJECT, env=settings, stdout=output, stderr=output
        )
    server = ServerProcess(tmp_path / "data", process=process, port=port)
    try:
        until(lambda: log.read_text().count("database_not_ready") >= 2)
        assert server.call("GET", "/health/live")[0] == 200
        assert server.call("GET", "/health")[0] == 503
        status, body = server.create()
        assert (status, body["code"]) == (503, "SERVER_ERROR")
        assert "canary" not in log.read_text()
    finally:
        assert server.stop() == 0


def test_a_refused_password_is_named_and_ends_the_start(tmp_path: Path, postgres_18: str) -> None:
    wrong = postgres_18.replace(postgres_18.split(":")[2].split("@", maxsplit=1)[0], "wrong-canary")
    refused = _run("serve", DATABASE_URL=wrong, INFERENCE_BACKEND="offline", PORT="0", DATA_DIR=str(tmp_path / "data"))
    assert refused.returncode == 2
    assert "password" in refused.stderr
    assert "canary" not in refused.stderr + refused.stdout
