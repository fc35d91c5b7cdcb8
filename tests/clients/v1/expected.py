"""What each scenario must give."""

from collections.abc import Callable, Mapping
from typing import Any

from server.inference.offline import INTRODUCTION
from tests.clients.v1.upstream import PERSON, PLACE, TEXT, TOO_LONG, VECTORS, WEATHER
from tests.fixtures.results import PNG

Check = Callable[[str, Any], str | None]
"""The reason why this is not the result of a scenario; None if it is."""

SCENARIOS = ("plain", "streamed", "tools", "structured", "embeddings", "images", "errors")
OFFLINE = ("plain", "streamed", "structured", "embeddings")
"""The scenarios for a server with the offline double, which calls no tool that is not required."""
REFUSALS = {"key": "Send a valid access token", "model": "org/none", "temperature": "temperature", "length": TOO_LONG}
"""A part of the message that an exception must have."""


def fault(scenario: str, result: Any) -> str | None:
    """The reason why this is not the result of a scenario with `upstream`; None if it is."""
    expected: dict[str, Callable[[Any], bool]] = {
        "plain": lambda it: it == TEXT,
        "streamed": lambda it: "".join(it) == TEXT and len(it) > 1,
        "tools": lambda it: it == [[PLACE], WEATHER],
        "structured": lambda it: it == PERSON,
        "embeddings": lambda it: it == VECTORS,
        "images": lambda it: it == f"A PNG of {len(PNG)} bytes.",
        "errors": _names_each_fault,
    }
    return _compared(expected, scenario, result)


def offline_fault(scenario: str, result: Any) -> str | None:
    """The same for a server with the offline double."""
    expected: dict[str, Callable[[Any], bool]] = {
        "plain": lambda it: it.startswith(INTRODUCTION),
        "streamed": lambda it: "".join(it).startswith(INTRODUCTION),
        "structured": lambda it: [type(it.get(name)) for name in PERSON] == [str, int],
        "embeddings": lambda it: [len(vector) > 1 for vector in it] == [True, True],
    }
    return _compared(expected, scenario, result)


def _compared(expected: Mapping[str, Callable[[Any], bool]], scenario: str, result: Any) -> str | None:
    return None if expected[scenario](result) else f"gave {result!r}"


def _names_each_fault(messages: Mapping[str, str]) -> bool:
    return all(REFUSALS[name] in message for name, message in messages.items())
