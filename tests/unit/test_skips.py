"""The list at the end of a test run, and the option that makes a skip an error."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests import skips, tools
from tests.fakes import tapes


def config(*reasons: str, no_skips: bool = False) -> Any:
    """Of a run in which tests were skipped for these reasons."""
    reports = [
        SimpleNamespace(nodeid=f"test_some.py::test_{number}", longrepr=("test_some.py", 1, f"Skipped: {reason}"))
        for number, reason in enumerate(reasons)
    ]
    reporter = SimpleNamespace(stats={"skipped": reports})
    return SimpleNamespace(pluginmanager=SimpleNamespace(get_plugin=lambda _: reporter), getoption=lambda _: no_skips)


def test_what_was_left_out_is_listed_with_the_command_that_brings_it() -> None:
    missing = tools.STRACE.missing
    assert list(skips.summary(config("for root", missing, missing, missing))) == [
        "    3  strace is not installed",
        "    1  for root",
        f"To run them (make test-tools): {' '.join(tools.INSTALL)}",
    ]


def test_what_no_package_brings_needs_no_command() -> None:
    assert list(skips.summary(config("for root"))) == ["    1  for root"]
    assert list(skips.summary(config())) == []


@pytest.mark.parametrize(
    ("reason", "is_error"), [(tools.STRACE.missing, True), ("for root", True), (tapes.ABSENT, False)]
)
def test_in_ci_a_skip_is_an_error_unless_recordings_are_missing(reason: str, *, is_error: bool) -> None:
    named = [f"test_some.py::test_0 ({reason})"] if is_error else []
    run = config(reason, no_skips=True)
    assert skips.forbidden(run) == named
    assert [line for line in skips.summary(run) if line.startswith("ERROR")] == [
        f"ERROR --no-skips: {x}" for x in named
    ]
    assert skips.forbidden(config(reason)) == []
