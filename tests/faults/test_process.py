"""What a server process does when it is killed, stopped, or started twice."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.processes import NO_AUTHORITIES, PROJECT, ServerProcess, server_process, until


def test_nothing_that_was_accepted_is_lost_by_a_kill(tmp_path: Path, patience: float) -> None:
    with server_process(tmp_path / "data", CONCURRENCY="4") as server:
        server.sign_up()
        accepted = [server.create(f"number {number}", model="offline/slow-2s")[1]["id"] for number in range(12)]
        server.kill()
        assert server.start() < 5 * patience
        until(lambda: {item["status"] for item in server.history()} == {"completed"}, timeout_s=30)
        assert sorted(item["id"] for item in server.history()) == sorted(accepted)


def test_a_second_kill_before_it_is_ready_makes_nobody_wait_for_a_lease(tmp_path: Path) -> None:
    with server_process(tmp_path / "data", CONCURRENCY="4") as server:
        server.sign_up()
        accepted = [server.create(f"number {number}", model="offline/slow-2s")[1]["id"] for number in range(4)]
        instance_file = server.data_dir / "instance-0"
        server.kill()
        remembered = instance_file.read_text()
        server.launch()
        until(lambda: instance_file.read_text() != remembered)  # it has taken its place, and rescued nothing yet
        server.kill()
        server.start()
        until(lambda: {item["status"] for item in server.history()} == {"completed"}, timeout_s=12)  # a lease is 15 s
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
    assert f"port {port} on 127.0.0.1 is in use" in refused.stderr
    assert not (tmp_path / "data").exists()


def test_settings_that_cannot_work_refuse_with_a_line_each(tmp_path: Path) -> None:
    refused = _run("serve", DATA_DIR=str(tmp_path / "data"), PORT="abc", SUPABASE_JWT_SECRET="too-short-canary")
    assert refused.returncode == 2
    assert refused.stderr.count("Cannot start: ") == 2
    assert "canary" not in refused.stderr + refused.stdout


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("nonsense.invalid", "not a name"),
        ("x" * 70, "not a name"),
        ("192.0.2.1", "not an address of this machine"),
    ],
)
def test_an_address_that_is_not_ours_is_named_with_its_remedy(tmp_path: Path, host: str, why: str) -> None:
    refused = _run("serve", DATA_DIR=str(tmp_path / "data"), PORT="0", HOST=host)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert f"HOST={host} is {why}" in refused.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_unsafe_python_is_refused_before_anything_is_started(tmp_path: Path, workers: str) -> None:
    refused = _run("serve", DATA_DIR=str(tmp_path / "data"), PORT="0", WORKERS=workers, PYTHONOPTIMIZE="1")
    assert refused.returncode == 2
    assert refused.stderr.count("Cannot start: ") == 1
    assert "Ready" not in refused.stdout
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("moment", ["postgres.draft-*", "postgres/data/postmaster.pid"])
def test_a_signal_while_the_database_starts_stops_that_too(tmp_path: Path, moment: str, workers: str) -> None:
    server = ServerProcess(tmp_path / "data", {"WORKERS": workers})
    server.launch()
    until(lambda: any(server.data_dir.glob(moment)))
    assert server.stop() == 0
    assert "Traceback" not in server.log.read_text()
    assert "Ready" not in server.log.read_text()
    assert '"event":"draining"' not in server.log.read_text()  # nothing was served, so nothing was left to drain
    assert not _postgres_in(server.data_dir)


def test_what_was_chosen_is_logged_before_the_banner(tmp_path: Path) -> None:
    unused = "postgresql://nobody:canary@127.0.0.1:1/nothing"
    (tmp_path / ".env").write_text(
        "HUGGINGFACEHUB_API_TOKEN=canary\nRETENTON_DAYS=3\nsomething=canary\nPOSTGRES_PASSWORD=canary\nMODEL_TIMEOUT=9000\n"
    )
    with server_process(tmp_path / "data", LISTEN_DATABASE_URL=unused, LOG_FORMAT="json") as server:
        before, banner = server.log.read_text().split("Ready:")
        events = [json.loads(line) for line in before.splitlines()]
        assert {event["part"]: event["choice"] for event in events if event["event"] == "chosen"} == {
            "database": f"embedded in {server.data_dir}",
            "accounts": "embedded, sign-ups: open",
            "model": "offline",
            "files": str(server.data_dir / "files"),
        }
        assert [(event["event"], event["note"]) for event in events if event["level"] == "warning"] == [
            ("setting_without_effect", "LISTEN_DATABASE_URL has no effect with the other settings."),
            ("name_without_effect", "HUGGINGFACEHUB_API_TOKEN is not read: set HF_API_TOKEN."),
            ("name_without_effect", "RETENTON_DAYS is not read: set RETENTION_DAYS."),
            ("unknown_names", ".env has names that this server does not read: POSTGRES_PASSWORD, SOMETHING."),
        ]
        assert "canary" not in before + banner


def test_the_embedded_database_has_room_for_every_worker(tmp_path: Path) -> None:
    with server_process(tmp_path / "data", WORKERS="4") as server:
        options = (server.data_dir / "postgres" / "data" / "postmaster.opts").read_text()
        assert '"--max_connections=64"' in options


def test_workers_share_a_port_and_end_together(tmp_path: Path) -> None:
    with server_process(tmp_path / "data", WORKERS="2", CONCURRENCY="2") as server:
        server.sign_up()
        assert server.process is not None
        workers = _workers_of(server)
        assert len(workers) == 2
        replies = [server.create(f"number {number}", prefer="wait=30") for number in range(10)]
        assert {status for status, _ in replies} == {200}
        workers[0].kill()
        until(lambda: len(_workers_of(server)) == 2 and workers[0] not in _workers_of(server))
        assert server.create(prefer="wait=30")[0] == 200
        assert server.stop() == 0
        until(lambda: not any(worker.is_running() for worker in workers))


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    with server_process(tmp_path / "data", WORKERS="2") as server:
        workers = _workers_of(server)
        server.kill()
        until(lambda: not any(worker.is_running() for worker in workers))


def test_a_second_signal_reaches_the_worker_that_still_drains(tmp_path: Path) -> None:
    with server_process(tmp_path / "data", WORKERS="2", DRAIN_S="60") as server:
        server.sign_up()
        server.create(model="offline/slow-20s")
        server.signal(signal.SIGTERM)
        until(lambda: '"event":"worker_ended"' in server.log.read_text())
        server.signal(signal.SIGTERM)
        assert server.wait(10) == 0


def test_a_stop_while_a_worker_is_started_anew_ends_that_one_too(tmp_path: Path) -> None:
    with server_process(tmp_path / "data", WORKERS="2") as server:
        _workers_of(server)[0].kill()
        until(lambda: '"event":"worker_died"' in server.log.read_text())
        server.signal(signal.SIGTERM)
        assert server.wait(10) == 0


def test_a_worker_whose_parent_stopped_listening_serves_all_the_same(tmp_path: Path, database: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    settings = {"DATABASE_URL": database, "INFERENCE_BACKEND": "offline", "DATA_DIR": str(tmp_path / "data")}
    settings |= {"AI_SDK_SERVER_DATABASE_URL": database, "AI_SDK_SERVER_SOCKETS": str(tmp_path)}
    settings |= {"PORT": str(port), "HOST": "127.0.0.1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "server", "worker", "0", str(writing)], cwd=PROJECT, env=settings, pass_fds=[writing]
    )
    os.close(writing)
    server = ServerProcess(tmp_path / "data", process=process, port=port)
    try:
        until(lambda: _is_healthy(server))
    finally:
        assert server.stop() == 0


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


def _postgres_in(data_dir: Path) -> list[int]:
    """Every Postgres program, initdb included, that was told of this folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(data_dir) in part for part in process.cmdline()):
                found.append(process.pid)
    return found


def _is_healthy(server: ServerProcess) -> bool:
    with contextlib.suppress(ConnectionError):
        return server.call("GET", "/health")[0] == 200
    return False


def _run(command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin"} | NO_AUTHORITIES | settings
    return subprocess.run(
        [sys.executable, "-m", "server", command],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_database_that_is_away_at_the_start_is_waited_for(tmp_path: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    settings = {
        "DATABASE_URL": "postgresql://nobody:canary@127.0.0.1:1/nothing",
        "INFERENCE_BACKEND": "offline",
        "PORT": str(port),
        "HOST": "127.0.0.1",
        "DATA_DIR": str(tmp_path / "data"),
        "WORKERS": workers,
    }
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "server"], cwd=PROJECT, env=settings, stdout=output, stderr=output
        )
    server = ServerProcess(tmp_path / "data", process=process, port=port)
    try:
        until(lambda: log.read_text().count("database_not_ready") >= 2 * int(workers))
        assert server.call("GET", "/health/live")[0] == 200
        status, health = server.call("GET", "/health")
        assert (status, health["checks"]["database"]) == (503, False)
        status, body = server.create()
        assert (status, body["code"]) == (503, "SERVER_ERROR")
        assert "canary" not in log.read_text()
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_refused_password_is_named_and_ends_the_start(tmp_path: Path, postgres_18: str, workers: str) -> None:
    wrong = postgres_18.replace(postgres_18.split(":")[2].split("@", maxsplit=1)[0], "wrong-canary")
    settings = {"INFERENCE_BACKEND": "offline", "PORT": "0", "WORKERS": workers, "DATA_DIR": str(tmp_path / "data")}
    refused = _run("serve", DATABASE_URL=wrong, **settings)
    assert refused.returncode == 2
    assert "password" in refused.stderr
    assert "Ready" not in refused.stdout
    assert "worker_died" not in refused.stdout
    assert "canary" not in refused.stderr + refused.stdout
