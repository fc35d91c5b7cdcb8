"""Runs the scenarios of one client: `python use_CLIENT.py URL KEY IMAGE [SCENARIO ...]`. Prints a JSON line for each.

`ask` makes the scenario `plain` and, with a wrong key, model, temperature or length, `errors`.
"""

import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

HELLO = "Say hello."
WEATHER = "What is the weather in Oslo?"
WHO = "Who wrote the first program? Answer as JSON."
TOO_LONG = "This is too long."
TEXTS = ["one", "two"]
PATIENCE_S = 10


@dataclass(frozen=True)
class Server:
    url: str
    """Ends in `/v1`."""
    key: str
    image: str
    """A small PNG as a data URL."""


def weather(place: str) -> str:
    """The weather at a place.

    Args:
        place: The name of a town.
    """
    calls.append({"place": place})
    return "7 °C, rain"


calls: list[dict[str, str]] = []
"""The arguments with which a client called `weather`."""


def run(ask: Callable[..., Any], *scenarios: Callable[[Server], Any], errors: Mapping[str, Any]) -> None:
    """`errors`: the client's own exception for a wrong `key`, `model`, `temperature` and `length`."""
    url, key, image, *wanted = sys.argv[1:]
    server = Server(url, key, image)
    known: dict[str, Callable[[Server], Any]] = {
        "plain": lambda server: ask(server, HELLO),
        **{scenario.__name__: scenario for scenario in scenarios},
        "errors": lambda server: {name: _refusal(ask, server, name, kind) for name, kind in errors.items()},
    }
    for name, scenario in known.items():
        if not wanted or name in wanted:
            print("\n" + json.dumps({"scenario": name, **_outcome(scenario, server)}), flush=True)


def _outcome(scenario: Callable[[Server], Any], server: Server) -> dict[str, Any]:
    try:
        return {"result": scenario(server)}
    except Exception:
        return {"problem": traceback.format_exc()}


def _refusal(ask: Callable[..., Any], server: Server, name: str, kind: Any) -> str:
    """The text of the exception; raises if the client raised another one, late, or none."""
    began = time.monotonic()
    try:
        match name:
            case "key":
                answer = ask(replace(server, key="nonsense"), HELLO)
            case "model":
                answer = ask(server, HELLO, model="org/none")
            case "temperature":
                answer = ask(server, HELLO, temperature=3.0)
            case _:
                answer = ask(server, TOO_LONG)
    except kind as error:
        seconds = time.monotonic() - began
        if seconds > PATIENCE_S:
            raise TimeoutError(f"{name}: refused after {seconds:.0f} s") from error
        return str(error)
    except Exception as error:
        raise AssertionError(f"{name}: {type(error).__name__} is not the one expected: {error}") from error
    raise AssertionError(f"{name}: not refused, but answered {answer!r}")
