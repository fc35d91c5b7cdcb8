"""`python -m server set-password`: beside a running server and without one, from a pipe and from a terminal."""

import contextlib
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.processes import NO_AUTHORITIES, PROJECT, ServerProcess, prepare_data, server_process

COMMAND = [sys.executable, "-m", "server", "set-password"]
EMAIL, OLD, NEW = "alice@example.com", "correct horse battery", "staple of the horse"


def set_password(data_dir: Path, email: str, typed: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    """With the password piped in."""
    return subprocess.run(
        [*COMMAND, email],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], "DATA_DIR": str(data_dir)} | NO_AUTHORITIES | settings,
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def type_password(data_dir: Path, *lines: str) -> tuple[int, str]:
    """At a terminal, a line for each question; returns the exit code and what the terminal has shown."""
    keyboard, terminal = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, EMAIL],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], "DATA_DIR": str(data_dir)} | NO_AUTHORITIES,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    shown = b""
    try:
        for line in lines:
            asked = shown.count(b": ")
            while shown.count(b": ") == asked:
                shown += os.read(keyboard, 1024)
            os.write(keyboard, f"{line}\n".encode())
        with contextlib.suppress(OSError):  # the other end is closed
            while chunk := os.read(keyboard, 1024):
                shown += chunk
        return process.wait(60), shown.decode()
    finally:
        process.kill()
        process.wait(10)
        os.close(keyboard)


def sign_up(server: ServerProcess) -> str:
    status, session = server.call("POST", "/api/auth/signup", {"email": EMAIL, "password": OLD})
    assert status == 201
    return str(session["refresh_token"])


def signs_in(server: ServerProcess, password: str) -> bool:
    return server.call("POST", "/auth/signin", {"email": EMAIL, "password": password})[0] == 200


def test_a_password_is_set_beside_a_running_server_and_without_one(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with server_process(data_dir, AUTH_RATE_LIMIT_PER_MINUTE="0") as server:
        refresh_token = sign_up(server)
        done = set_password(data_dir, "Alice@Example.com", f"{NEW}\n")
        assert (done.returncode, done.stderr) == (0, "")
        assert (signs_in(server, NEW), signs_in(server, OLD)) == (True, False)
        assert server.call("POST", "/auth/refresh", {"refresh_token": refresh_token})[0] == 401
        server.stop()
        assert set_password(data_dir, EMAIL, f"{OLD}\n").returncode == 0
        server.start()
        assert (signs_in(server, NEW), signs_in(server, OLD)) == (False, True)
        code, shown = type_password(data_dir, NEW, NEW)
        assert (code, NEW in shown) == (0, False), shown
        assert signs_in(server, NEW)
        code, shown = type_password(data_dir, OLD, NEW)
        assert (code, "passwords differ" in shown) == (1, True), shown


@pytest.mark.parametrize(
    ("email", "typed", "settings", "code", "words"),
    [
        ("nobody@example.com", NEW, {}, 1, "no account"),
        ("nobody", NEW, {}, 1, "e-mail address"),
        (EMAIL, "short", {}, 1, "8 to 128"),
        (EMAIL, "", {}, 1, "8 to 128"),
        (
            EMAIL,
            NEW,
            {
                "SUPABASE_URL": "https://abc.supabase.co",
                "SUPABASE_ANON_KEY": "k",
                "DATABASE_URL": "postgresql://postgres@db.abc.supabase.co/postgres",
                "HF_API_TOKEN": "t",
            },
            2,
            "in Supabase",
        ),
    ],
    ids=["unknown", "no address", "short", "nothing", "Supabase"],
)
def test_what_cannot_be_done_is_said(
    tmp_path: Path, email: str, typed: str, settings: dict[str, str], code: int, words: str
) -> None:
    refused = set_password(prepare_data(tmp_path / "data"), email, typed, **settings)
    assert (refused.returncode, words in refused.stderr) == (code, True), refused.stderr
    assert len(refused.stderr.splitlines()) == 1
