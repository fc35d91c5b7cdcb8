"""The page about OpenAI's clients lists those that `make test-clients` tries, with the versions that are pinned."""

import re
from pathlib import Path

from tests.clients.v1.clients import CLIENTS, DENO
from tests.clients.v1.expected import SCENARIOS

ROOT = Path(__file__).parents[2]
_ROW = re.compile(r"^\| (\S+ \((?:Python|JavaScript)\)) \| (\S+) \|", re.MULTILINE)


def test_the_page_lists_each_client_with_its_version() -> None:
    rows = _ROW.findall((ROOT / "docs/openai.md").read_text(encoding="utf-8"))
    assert rows == [(client.name, client.version) for client in CLIENTS]


def test_the_clients_that_the_development_packages_have_are_the_same() -> None:
    """`make test` runs their scripts with these packages."""
    pins = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8")
    for client in CLIENTS:
        if client.package in {"openai", "huggingface-hub"} and client.environment != DENO:
            assert f"\n{client.package}=={client.version} " in pins


def test_every_client_has_a_script_and_reasons_for_known_scenarios_only() -> None:
    for client in CLIENTS:
        assert client.path.exists(), client.name
        assert client.reasons.keys() <= set(SCENARIOS)
