#!/usr/bin/env python3
"""Fails when a test was skipped that is not named, with its reason, in the list of allowed skips.

    check_skips.py junit.xml allowed_skips.txt

A line of the list is `pattern — reason`: `file.py::test_name`, where `*` stands for anything, and why this test may be
skipped where CI runs. A line for a file without tests is an error as well: the list must not outlive them.
"""
# ruff: noqa: T201 - a script that talks to a person

import re
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

SEPARATOR = " — "


def main(report: str, allowed_list: str) -> int:
    """Print every fault; returns 0 if there is none."""
    patterns, faults = read_allowed(Path(allowed_list).read_text(encoding="utf-8"))
    tests = read_report(Path(report))
    for name, reason in tests.items():
        if reason is not None and not any(matches(name, pattern) for pattern in patterns):
            faults.append(f"{name} was skipped ({reason}): let it run, or name it with the reason in {allowed_list}")
    files = {file_of(name) for name in tests}
    faults += [f"{allowed_list}: no test ran in {file_of(item)}" for item in patterns if file_of(item) not in files]
    if not tests:
        faults.append(f"{report} holds no test at all")
    for fault in faults:
        print(fault, file=sys.stderr)
    skipped = sum(reason is not None for reason in tests.values())
    if not faults:
        print(f"{len(tests)} tests, {skipped} skipped, each of those with a reason")
    return 1 if faults else 0


def matches(name: str, pattern: str) -> bool:
    """Not `fnmatch`, to which the brackets of a parametrised test mean something else."""
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), name) is not None


def file_of(name: str) -> str:
    return name.partition("::")[0]


def read_allowed(text: str) -> tuple[list[str], list[str]]:
    """The patterns of the list, and a fault for each line without a reason."""
    patterns, faults = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        pattern, _, reason = line.partition(SEPARATOR)
        patterns.append(pattern.strip())
        if not reason.strip():
            faults.append(f"line {number} of the allowed skips has no reason: write 'pattern{SEPARATOR}reason'")
    return patterns, faults


def read_report(path: Path) -> dict[str, str | None]:
    """Every test of a JUnit report as `file.py::name`, with the reason where it was skipped."""
    tests: dict[str, str | None] = {}
    for case in ET.parse(path).iter("testcase"):  # noqa: S314 - written by our own test run
        skipped = case.find("skipped")
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name', '')}"
        tests[name] = None if skipped is None else skipped.get("message", "")
    return tests


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
