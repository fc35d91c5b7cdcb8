"""`python -m server users` and `psql`: beside a running server and without one, for people and for scripts."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.processes import NO_AUTHORITIES, PASSWORD, PROJECT, ServerProcess, prepare_data, server_process

EMAIL = "alice@example.com"
EVERYWHERE_S = 5.0
"""A revocation without a hint, which a single instance does not listen for."""


def run(data_dir: Path, *arguments: str, stdin: str = "", **settings: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], "DATA_DIR": str(data_dir)} | NO_AUTHORITIES | settings,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def users(data_dir: Path, *arguments: str, **settings: str) -> Any:
    """The JSON that a successful command prints."""
    done = run(data_dir, "users", *arguments, "--json", **settings)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def sign_in(server: ServerProcess, email: str = EMAIL) -> tuple[int, Any]:
    return server.call("POST", "/auth/signin", {"email": email, "password": PASSWORD})


def status_of(server: ServerProcess, token: str) -> int:
    return server.call("GET", "/auth/user", Authorization=f"Bearer {token}")[0]


def wait_status(server: ServerProcess, token: str, status: int) -> None:
    until = time.monotonic() + EVERYWHERE_S + 1
    while status_of(server, token) != status:
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.timeout(180)
def test_accounts_are_administered_beside_a_running_server(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with server_process(data_dir, AUTH_RATE_LIMIT_PER_MINUTE="0", SIGN_UPS="invite") as server:
        invited = users(data_dir, "invite", " Alice@Example.com", PUBLIC_URL="https://ai.example")
        assert invited["email"] == EMAIL
        assert invited["link"] == f"https://ai.example/#invite={invited['code']}&email=alice%40example.com"
        body = {"email": EMAIL, "password": PASSWORD, "invite": invited["code"]}
        status, session = server.call("POST", "/auth/signup", body)
        assert status == 201, session
        token, user_id = session["token"], session["user"]["id"]
        server.call("POST", "/api/requests", {"model_type": "text2text", "input_data": {"prompt": "hello"}},
                    Authorization=f"Bearer {token}")  # fmt: skip

        [row] = users(data_dir, "list")
        assert (row["id"], row["email"], row["status"]) == (user_id, EMAIL, "active")
        table = run(data_dir, "users", "list").stdout.splitlines()
        assert (table[0].split()[:2], EMAIL in table[1], table[2]) == (["ID", "EMAIL"], True, "(1 row)")
        shown = users(data_dir, "show", EMAIL.upper())
        assert (shown["requests"], shown["unfinished"], shown["files"]) == (1, 0, 0)
        assert "status           active" in run(data_dir, "users", "show", user_id).stdout

        assert users(data_dir, "suspend", EMAIL)["status"] == "suspended"
        assert sign_in(server)[0] == 403
        wait_status(server, token, 401)
        assert users(data_dir, "restore", EMAIL)["status"] == "active"
        assert sign_in(server)[0] == 200
        wait_status(server, token, 200)

        refused = run(data_dir, "users", "delete", EMAIL)
        assert (refused.returncode, "--yes" in refused.stderr) == (1, True)
        assert status_of(server, token) == 200
        assert users(data_dir, "delete", EMAIL, "--yes") == {"id": user_id, "email": EMAIL, "status": "deleted"}
        wait_status(server, token, 401)
        assert sign_in(server)[0] == 401
        query = "SELECT (SELECT count(*) FROM auth.users) + (SELECT count(*) FROM model_requests)"
        counted = run(data_dir, "psql", "-X", "-A", "-t", "-c", query)
        assert (counted.stdout, counted.returncode) == ("0\n", 0), counted.stderr


def test_the_commands_work_without_a_server(tmp_path: Path) -> None:
    data_dir = prepare_data(tmp_path / "data")
    assert users(data_dir, "list") == []
    assert run(data_dir, "users", "list").stdout == "(0 rows)\n"
    assert users(data_dir, "invite", EMAIL).keys() == {"email", "code", "expires_at"}
    failed = run(data_dir, "psql", "-X", "-v", "ON_ERROR_STOP=1", stdin="SELECT 1/0;\n")
    assert (failed.returncode, "division by zero" in failed.stderr) == (3, True)


def test_the_commands_work_on_another_database(tmp_path: Path, database: str) -> None:
    settings = {"DATABASE_URL": database}
    assert users(tmp_path / "data", "list", **settings) == []
    assert users(tmp_path / "data", "invite", EMAIL, **settings)["email"] == EMAIL
    counted = run(tmp_path / "data", "psql", "-X", "-A", "-t", "-c", "SELECT email FROM auth.invites", **settings)
    assert (counted.stdout, counted.returncode) == (f"{EMAIL}\n", 0), counted.stderr
    assert not (tmp_path / "data" / "postgres").exists()


@pytest.mark.parametrize(
    ("arguments", "settings", "code", "words"),
    [
        (["show", "nobody@example.com"], {}, 1, "no account"),
        (["suspend", "nobody"], {}, 1, "no account"),
        (["invite", "nobody"], {}, 1, "e-mail address"),
        (["delete", "nobody@example.com", "--yes"], {}, 1, "no account"),
        ([], {}, 2, "action"),
        (["list", "--jsn"], {}, 2, "--jsn"),
        (["list"], {"DATABASE_URL": "postgresql://alice:canary@127.0.0.1:1/none"}, 2, "cannot be reached"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    tmp_path: Path, arguments: list[str], settings: dict[str, str], code: int, words: str
) -> None:
    refused = run(prepare_data(tmp_path / "data"), "users", *arguments, **settings)
    assert "canary" not in refused.stderr
    assert (refused.returncode, words in refused.stderr, refused.stdout) == (code, True, ""), refused.stderr
