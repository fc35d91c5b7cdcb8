"""Every name in capitals in the documentation is a setting, an error code, or listed here with the file it is from."""

import re
from pathlib import Path

import pytest

from server.errors import Code
from server.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
KNOWN = {name.upper() for name in Settings.model_fields} | set(Code)
OTHERS = {
    "CAP_DAC_OVERRIDE": "server/storage/embedded/os_user.py",
    "HUGGING_FACE_HUB_TOKEN": "server/commands/setting_names.py",
    "MAX_ATTEMPTS": "server/actors/quarantine.py",
    "PYTEST_ARGS": "Makefile",
    "RLIMIT_DATA": "bench/overload.py",
    "TCP_USER_TIMEOUT": "server/commands/serve.py",
}
"""What is not a setting of the server, and the file that gives it its meaning."""

_NAME = re.compile(r"(?<!\.py:)\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")
"""A name behind its file (`limits/rates.py:MAX_KEYS`) is looked up there, by `test_pages.py`."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_only_what_exists(page: Path) -> None:
    named = set(_NAME.findall(page.read_text(encoding="utf-8")))
    assert named - KNOWN - OTHERS.keys() == set()


@pytest.mark.parametrize(("name", "file"), OTHERS.items())
def test_what_is_not_a_setting_exists_elsewhere(name: str, file: str) -> None:
    assert name in (ROOT / file).read_text(encoding="utf-8")


def test_the_container_sets_only_settings() -> None:
    """Beside what Python itself reads."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    names = set(re.findall(r"^(?:ENV|   ) *([A-Z_]+)=", dockerfile, re.MULTILINE))
    assert names - KNOWN == {"PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
