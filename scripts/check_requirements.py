#!/usr/bin/env python3
"""Fails if the pins do not match pyproject.toml: missing, too old, superfluous, without hashes, or contradictory.

Works without a network; `make lock` repairs what it finds.
"""
# ruff: noqa: T201 - a script that talks to a person

import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = "ai-sdk-server"

_PIN = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)(?P<rest>.*?)(?=^[A-Za-z0-9]|\Z)", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Pin:
    """One pinned package. `is_direct`: the project itself requires it, according to the resolver's comment."""

    version: str
    hashes: int
    is_direct: bool


def main() -> int:
    """Print every fault; returns 0 if there is none."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    runtime = read_pins((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    dev = read_pins((ROOT / "requirements-dev.txt").read_text(encoding="utf-8"))
    wanted = project["dependencies"]
    faults = [
        *(f"requirements.txt: {fault}" for fault in compare(wanted, runtime)),
        *(f"requirements-dev.txt: {fault}" for fault in compare(wanted + project["optional-dependencies"]["dev"], dev)),
        *disagreements(runtime, dev),
    ]
    for fault in faults:
        print(f"{fault} (make lock)", file=sys.stderr)
    if not faults:
        print(f"Pins match pyproject.toml: {len(runtime)} to run, {len(dev)} to develop")
    return 1 if faults else 0


def read_pins(text: str) -> dict[str, Pin]:
    """The pins of a requirements file, by canonical name."""
    return {
        canonicalize_name(match["name"]): Pin(
            match["version"], match["rest"].count("--hash=sha256:"), f"{PROJECT} (pyproject.toml)" in match["rest"]
        )
        for match in _PIN.finditer(text)
    }


def compare(wanted: list[str], pins: dict[str, Pin]) -> list[str]:
    """The faults of `pins` for a project that requires `wanted`."""
    requirements = {canonicalize_name(item.name): item for item in map(Requirement, wanted)}
    faults = []
    for name, requirement in requirements.items():
        pin = pins.get(name)
        if pin is None:
            faults.append(f"{name} is not pinned")
        elif not requirement.specifier.contains(pin.version, prereleases=True):
            faults.append(f"{name} is pinned to {pin.version}, wanted is {requirement.specifier}")
    faults += [
        f"{name} is not asked for any more" for name, pin in pins.items() if pin.is_direct and name not in requirements
    ]
    faults += [f"{name} has no hash" for name, pin in pins.items() if not pin.hashes]
    return faults


def disagreements(runtime: dict[str, Pin], dev: dict[str, Pin]) -> list[str]:
    """The tests must run with the deployed versions."""
    return [
        f"requirements-dev.txt: {name} must be pinned to {pin.version} as in requirements.txt"
        for name, pin in runtime.items()
        if name not in dev or dev[name].version != pin.version
    ]


if __name__ == "__main__":
    sys.exit(main())
