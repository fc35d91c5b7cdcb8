"""Parses the Dockerfile into stages and steps. Supports only the instructions that ours uses."""

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Step:
    instruction: str
    argument: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.argument)


@dataclass(slots=True)
class Stage:
    base: str
    name: str
    steps: list[Step] = field(default_factory=list)


@dataclass(slots=True)
class Config:
    """The process configuration of an image."""

    env: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"})
    workdir: str = "/"
    user: str = "root"
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    stop_signal: str = "SIGTERM"

    def take(self, step: Step) -> None:
        """Apply an instruction that changes no file. Raises `ValueError` for an unknown one."""
        match step.instruction:
            case "ENV":
                for word in step.words:
                    name, _, value = word.partition("=")
                    self.env[name] = value.replace("$PATH", self.env["PATH"])
            case "WORKDIR":
                self.workdir = step.argument
            case "USER":
                self.user = step.argument
            case "CMD":
                self.command = json.loads(step.argument)
            case "HEALTHCHECK":
                self.health = json.loads(step.argument.partition("CMD ")[2])
            case "STOPSIGNAL":
                self.stop_signal = step.argument
            case "EXPOSE":
                pass
            case other:
                raise ValueError(f"the instruction {other} is not known to this script")


def read(path: Path) -> list[Stage]:
    """The stages, in order."""
    stages: list[Stage] = []
    for line in _joined(path.read_text()):
        instruction, _, argument = line.partition(" ")
        if instruction == "FROM":
            base, _, name = argument.partition(" AS ")
            stages.append(Stage(base, name))
        else:
            stages[-1].steps.append(Step(instruction, argument.strip()))
    return stages


def _joined(text: str) -> list[str]:
    """Lines without comments. A line that ends with a backslash is joined with the next."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return "\n".join(lines).replace("\\\n", " ").splitlines()
