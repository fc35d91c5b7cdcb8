"""What a run of the tests left out: listed at its end, and with `--no-skips` an error of the run."""

from collections import defaultdict
from collections.abc import Iterator

import pytest

from tests import tools
from tests.fakes import tapes

EXCUSED = frozenset({tapes.ABSENT})
"""Reasons that `--no-skips` lets pass: nobody can install the recordings."""


def skipped(config: pytest.Config) -> dict[str, list[str]]:
    """The ids of the skipped tests by their reason. Empty in a worker of xdist, which reports to the main process."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    found: dict[str, list[str]] = defaultdict(list)
    for report in reporter.stats.get("skipped", ()) if reporter else ():
        _, _, reason = report.longrepr
        found[reason.removeprefix("Skipped: ")].append(report.nodeid)
    return found


def forbidden(config: pytest.Config) -> list[str]:
    """The skipped tests that fail this run."""
    if not config.getoption("--no-skips"):
        return []
    found = {reason: names for reason, names in skipped(config).items() if reason not in EXCUSED}
    return [f"{name} ({reason})" for reason, names in found.items() for name in names]


def summary(config: pytest.Config) -> Iterator[str]:
    """The lines of the list; none where every test ran."""
    found = skipped(config)
    for reason, names in sorted(found.items(), key=lambda item: -len(item[1])):
        yield f"{len(names):5}  {reason}"
    if found.keys() & {tool.missing for tool in tools.ALL}:
        yield f"To run them (make test-tools): {' '.join(tools.INSTALL)}"
    for name in forbidden(config):
        yield f"ERROR --no-skips: {name}"
