"""Recorded answers of Hugging Face, where they are present, and always the fixtures of the same form."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark import ParameterSet

from tests.fakes.task_reader import OFFERED, is_inference
from tests.fixtures.exchanges import EXCHANGES
from tests.fixtures.results import RESULTS

TAPES = Path(__file__).parents[2].parent / "shared" / "tapes"
TEXT_TASKS = frozenset({"chat-completion", "chat-completion-stream", "text-generation", "text-generation-stream"})
ABSENT = "the recorded answers of Hugging Face are not part of the project"

Record = dict[str, Any]


@functools.cache
def tape() -> tuple[Record, ...]:
    """All recordings, and the errors seen; empty where the folder is absent."""
    if not TAPES.is_dir():
        return ()
    tapes = json.loads((TAPES / "recorded.json").read_text())
    return (*tapes, *json.loads((TAPES / "observed_errors.json").read_text()))


def recorded() -> tuple[Record, ...]:
    """The recordings of text tasks and the errors seen."""
    return tuple(record for record in tape() if record["task"] in TEXT_TASKS | {"error"})


def task_exchanges() -> list[Record]:
    """The answers of the other tasks: fixtures of our own, and the recordings where they are present."""
    others = [record for record in tape() if record["task"] in OFFERED and is_inference(record)]
    return [*RESULTS, *others]


def all_exchanges() -> list[Record]:
    """The fixtures of our own, and the recordings where they are present."""
    return [*EXCHANGES, *recorded()]


def exchanges() -> list[ParameterSet]:
    """Parameters for a test over all exchanges of text; one of them says that the recordings are absent, if so."""
    return _parameters(all_exchanges())


def task_parameters() -> list[ParameterSet]:
    """The same for the other tasks."""
    return _parameters(task_exchanges())


def _parameters(records: list[Record]) -> list[ParameterSet]:
    parameters = [pytest.param(record, id=record["name"]) for record in records]
    if not tape():
        parameters.append(pytest.param({}, id="recordings", marks=pytest.mark.skip(reason=ABSENT)))
    return parameters
