"""Notes about settings: strangers who may sign up where that costs money, and nothing where all is well."""

from pathlib import Path
from typing import Any

import pytest

from server.commands.notes import notes_of
from server.settings import Settings


@pytest.fixture(autouse=True)
def _no_env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("values", "is_open"),
    [
        ({}, False),  # the offline double costs nothing
        ({"hf_api_token": "hf_x"}, True),
        ({"hf_base_url": "http://localhost:11434/v1"}, True),
        ({"hf_api_token": "hf_x", "host": "127.0.0.1"}, False),
        ({"hf_api_token": "hf_x", "host": "::1"}, False),
        ({"hf_api_token": "hf_x", "host": "localhost"}, False),
        ({"hf_api_token": "hf_x", "host": "10.0.0.5"}, True),
        ({"hf_api_token": "hf_x", "sign_ups": "invite"}, False),
        (
            {
                "hf_api_token": "hf_x",
                "supabase_url": "https://x.example",
                "supabase_anon_key": "key",
                "supabase_service_role_key": "key",
                "database_url": "postgresql://x@localhost/x",
            },
            False,
        ),
    ],
)
def test_open_sign_ups_are_noted_where_strangers_could_spend_money(values: dict[str, Any], *, is_open: bool) -> None:
    settings = Settings.load(_env_file=None, **values)
    assert [note.event for note in notes_of(settings)] == (["sign_ups_open"] if is_open else [])


def test_unknown_names_of_the_file_share_one_note_and_likely_slips_have_their_own() -> None:
    Path(".env").write_text("ZEBRA=1\nAPPLE=2\nHF_APITOKEN=x\nPORT=3000\n", encoding="utf-8")
    notes = {note.event: note.text for note in notes_of(Settings.load(_env_file=None))}
    assert notes == {
        "name_without_effect": "HF_APITOKEN is not read: set HF_API_TOKEN.",
        "unknown_names": ".env has names that this server does not read: APPLE, ZEBRA.",
    }
