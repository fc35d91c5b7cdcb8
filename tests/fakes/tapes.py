"""Recorded answers of Hugging Face, where they are present, and always the fixtures of the same form."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark import ParameterSet

from tests.fixtures.exchanges import EXCHANGES

TAPES = Path(__file__).parents[2].parent / "shared" / "tapes"
TEXT_TASKS = frozenset({"chat-completion", "chat-completion-stream", "text-generation", "text-generation-stream"})
ABSENT = "the recorded answers of Hugging Face are not part of the project"

Record = dict[str, Any]


@functools.cache
def recorded() -> tuple[Record, ...]:
    """The recordings of text tasks and the errors seen; empty where the folder is absent."""
    if not TAPES.is_dir():
        return ()
    tapes = json.loads((TAPES / "recorded.json").read_text())
    errors = json.loads((TAPES / "observed_errors.json").read_text())
    return tuple(record for record in tapes + errors if record["task"] in TEXT_TASKS | {"error"})


def all_exchanges() -> list[Record]:
    """The fixtures of our own, and the recordings where they are present."""
    return [*EXCHANGES, *recorded()]


def exchanges() -> list[ParameterSet]:
    """Parameters for a test over all exchanges; one of them says that the recordings are absent, if so."""
    parameters = [pytest.param(record, id=record["name"]) for record in EXCHANGES]
    if not recorded():
        return [*parameters, pytest.param({}, id="recordings", marks=pytest.mark.skip(reason=ABSENT))]
    return parameters + [pytest.param(record, id=record["name"]) for record in recorded()]
