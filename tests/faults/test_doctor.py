"""`python -m server doctor`: one line for each subject, what to do about what is wrong, and an exit code of its own."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.huggingface import FakeHuggingFace, error_answer
from tests.faults.processes import PROJECT, server_process


@contextmanager
def _upstream(fake: FakeHuggingFace) -> Iterator[str]:
    """The fake provider in a thread of its own, since the doctor is a process that is waited for."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(fake.__aenter__(), loop).result(10)
        yield fake.url
        asyncio.run_coroutine_threadsafe(fake.__aexit__(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def _doctor(data_dir: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(data_dir)} | settings
    return subprocess.run(
        [sys.executable, "-m", "server", "doctor"],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_all_embedded_is_well(tmp_path: Path) -> None:
    result = _doctor(tmp_path / "data")
    assert result.returncode == 0, result.stdout + result.stderr
    assert [line.split()[:2] for line in result.stdout.splitlines()] == [
        ["ok", "data"],
        ["ok", "database"],
        ["ok", "model"],
    ]
    assert "not AI" in result.stdout


def test_a_server_that_runs_on_the_same_data_is_well(tmp_path: Path) -> None:
    with server_process(tmp_path / "data") as server:
        result = _doctor(server.data_dir)
    assert result.returncode == 0
    assert "running server" in result.stdout


def test_a_wrong_database_password_is_named(tmp_path: Path, postgres_18: str) -> None:
    start, _, rest = postgres_18.partition("@")
    wrong = start.rpartition(":")[0] + ":wrong-canary@" + rest
    result = _doctor(tmp_path / "data", DATABASE_URL=wrong, INFERENCE_BACKEND="offline")
    assert result.returncode == 4
    assert "password" in result.stdout
    assert "canary" not in result.stdout + result.stderr


def test_an_unreachable_model_is_named(tmp_path: Path) -> None:
    result = _doctor(tmp_path / "data", HF_BASE_URL="http://127.0.0.1:9")
    assert result.returncode == 5
    assert "HF_BASE_URL" in result.stdout


@pytest.mark.parametrize(
    ("status", "words", "remedy"),
    [
        (401, "Invalid credentials in Authorization header", "HF_API_TOKEN"),
        (402, "You have depleted your monthly included credits", "credits"),
        (403, "This authentication method does not have sufficient permissions", "permission"),
    ],
)
def test_a_token_that_cannot_work_is_named_with_its_remedy(
    tmp_path: Path, status: int, words: str, remedy: str
) -> None:
    with _upstream(FakeHuggingFace(listing=error_answer(status, words))) as url:
        result = _doctor(tmp_path / "data", HF_BASE_URL=url, HF_API_TOKEN="hf_canarycanarycanary")
    assert result.returncode == 6, result.stdout
    assert remedy in result.stdout
    assert "canary" not in result.stdout + result.stderr


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    result = _doctor(tmp_path / "file" / "data")
    assert result.returncode == 3
    assert "DATA_DIR" in result.stdout
