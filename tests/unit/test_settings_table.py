"""Settings are documented: the README's table and `.env.example` name exactly those that exist, with their defaults."""

import re
from pathlib import Path
from typing import Any

import pytest

from server.settings import Settings

ROOT = Path(__file__).parents[2]
NAMES = {name.upper() for name in Settings.model_fields}
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")

_ROW = re.compile(r"^\| `([A-Z_]+)` \| ([^|]*) \| ([^|]+) \|$", re.MULTILINE)
_LINE = re.compile(r'^([A-Z_]+)="(.*)" +# (.+)$', re.MULTILINE)


def table() -> dict[str, tuple[str, str]]:
    """Name, default and meaning of every row of the README's settings table."""
    rows = _ROW.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len({name for name, _, _ in rows}) == len(rows), "a setting has two rows"
    return {name: (default, meaning) for name, default, meaning in rows}


def documented_default(value: Any) -> str:
    """How a default that is not empty stands in the table."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_readme_has_a_row_for_every_setting_and_no_other() -> None:
    assert table().keys() == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_readme_gives_the_default_of(name: str) -> None:
    value = Settings.model_fields[name.lower()].default
    shown = table()[name][0].strip("`").split(" (")[0]
    if value in (None, ()):
        assert not re.fullmatch(r"[\d.]+", shown)
    else:
        assert shown == documented_default(value)


def test_example_has_a_line_for_every_setting_and_no_other() -> None:
    assert {name for name, _, _ in _LINE.findall(EXAMPLE)} == NAMES


def test_example_leaves_every_value_empty() -> None:
    lines = [line for line in EXAMPLE.splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not _LINE.fullmatch(line)] == []
    assert {value for _, value, _ in _LINE.findall(EXAMPLE)} == {""}


def test_example_starts_the_server_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    assert Settings.load(_env_file=ROOT / ".env.example") == Settings(_env_file=None)


@pytest.mark.parametrize(
    ("name", "default"), re.findall(r'^([A-Z_]+)="".*\(default: ([\w.]+)[,)]', EXAMPLE, re.MULTILINE)
)
def test_example_gives_the_default_of(name: str, default: str) -> None:
    value = Settings.model_fields[name.lower()].default
    if default.replace(".", "").isdigit() or isinstance(value, (str, Path)):
        assert default == documented_default(value)
    else:
        assert value in (None, ())
