"""`python -m server usage`: beside a running server and without one, as a table, CSV and JSON."""

import csv
import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.faults.processes import NO_AUTHORITIES, PROJECT, prepare_data, server_process

ALICE, BOB = "alice@example.com", "bob@example.com"


def usage(data_dir: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "server", "usage", *arguments],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], "DATA_DIR": str(data_dir)} | NO_AUTHORITIES,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_usage_is_shown_beside_a_running_server_and_without_one(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with server_process(data_dir) as server:
        for email, prompts in ((ALICE, ["hello", "hello there"]), (BOB, ["hello"])):
            server.sign_up(email)
            for prompt in prompts:
                assert server.create(prompt, prefer="wait=20")[1]["status"] == "completed"
        total = json.loads(usage(data_dir, "--user", "Bob@Example.com", "--json").stdout)["total"]
        assert total == server.call("GET", "/api/usage")[1]["total"]
        rows = list(csv.DictReader(io.StringIO(usage(data_dir, "--by", "day,model", "--csv").stdout)))
        earlier = json.loads(usage(data_dir, "--from", "2026-01-01", "--to", "2026-01-31", "--json").stdout)
        server.stop()
        table = usage(data_dir)
    today = datetime.now(UTC).date().isoformat()
    assert [(row["day"], row["model"], row["completed"], row["cost_usd"]) for row in rows] == [
        (today, "offline/echo", "3", "")
    ]
    assert (earlier["data"], earlier["total"]["completed"]) == ([], 0)
    header, *lines = table.stdout.splitlines()
    assert header.split()[:3] == ["user", "model", "completed"]
    assert [line.split()[:3] for line in lines] == [
        [ALICE, "offline/echo", "2"],
        [BOB, "offline/echo", "1"],
        ["-", "-", "3"],
    ]
    assert len({len(line) for line in (header, *lines)}) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--user", "nobody@example.com"], 1, "There is no account with the address nobody@example.com."),
        (["--user", "nobody"], 1, "e-mail address"),
        (["--by", "hour"], 2, "must be of user, day and model"),
        (["--from", "May"], 2, "invalid"),
        (["--csv", "--json"], 2, "not allowed"),
    ],
)
def test_what_cannot_be_shown_is_said(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    refused = usage(prepare_data(tmp_path / "data"), *arguments)
    assert (refused.returncode, words in refused.stderr, refused.stdout) == (code, True, ""), refused.stderr
