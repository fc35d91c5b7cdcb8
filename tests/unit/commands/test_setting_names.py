"""Names that resemble a setting and are not read."""

from pathlib import Path

import pytest

from server.commands.setting_names import find_unknown, find_unread, given_names, names_in_file


@pytest.mark.parametrize(
    ("given", "unread"),
    [
        ({"HUGGING_FACE_HUB_TOKEN"}, {"HUGGING_FACE_HUB_TOKEN": "HF_API_TOKEN"}),
        ({"HUGGINGFACEHUB_API_TOKEN", "HF_API_TOKEN"}, {}),
        ({"HUGGINGFACEHUB_API_TOKEN", "HF_TOKEN"}, {}),
        ({"SUPABASE_PUBLISHABLE_KEY"}, {"SUPABASE_PUBLISHABLE_KEY": "SUPABASE_ANON_KEY"}),
        ({"HF_APITOKEN", "DATABSE_URL"}, {"DATABSE_URL": "DATABASE_URL", "HF_APITOKEN": "HF_API_TOKEN"}),
        ({"LOGLEVEL"}, {"LOGLEVEL": "LOG_LEVEL"}),
        ({"LOGLEVEL", "LOG_LEVEL"}, {}),
    ],
)
def test_around_a_name_of_another_program_or_with_a_slip_is_found(given: set[str], unread: dict[str, str]) -> None:
    assert find_unread(given) == unread


def test_around_ordinary_names_are_left_alone() -> None:
    ordinary = {
        "COMPOSE_PROJECT_NAME", "EDITOR", "HF_HOME", "HF_HUB_OFFLINE", "HOME", "HOSTNAME", "HTTPS_PROXY", "LANG",
        "NODE_ENV", "PATH", "PGHOST", "PGPORT", "POSTGRES_PASSWORD", "PWD", "PYTHONPATH", "SHELL", "LS_COLORS",
        "TMPDIR", "USER", "VIRTUAL_ENV", "WEB_CONCURRENCY", "XDG_DATA_DIRS", "XDG_DATA_HOME", "KUBERNETES_PORT",
    }  # fmt: skip
    assert find_unread(ordinary) == {}


def test_around_names_come_from_the_environment_and_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOGLEVEL", "debug")
    monkeypatch.setenv("HF_KEY", "")
    (tmp_path / ".env").write_text("HF_APITOKEN=x\nMAX_RETRYS=\n", encoding="utf-8")
    names = given_names()
    assert {"LOGLEVEL", "HF_APITOKEN"} <= names
    assert not names & {"HF_KEY", "MAX_RETRYS"}
    assert names_in_file() == {"HF_APITOKEN"}
    (tmp_path / ".env").write_bytes(b"HF_APITOKEN=\xff")
    assert "HF_APITOKEN" not in given_names()


def test_every_name_that_is_no_setting_is_unknown() -> None:
    assert find_unknown({"PORT", "METRICS_TOKEN", "POSTGRES_PASSWORD", "LOGLEVEL"}) == {"POSTGRES_PASSWORD", "LOGLEVEL"}
