"""The list of models."""

from collections.abc import Iterable
from typing import Any

from server.openai.ask import DEFAULT_MODEL

_SYSTEM = "system"


def model_list(names: Iterable[str]) -> dict[str, Any]:
    """The list of names; `default` is the model that the server tries first."""
    return {"object": "list", "data": [model_object(name) for name in dict.fromkeys((DEFAULT_MODEL, *names))]}


def model_object(name: str) -> dict[str, Any]:
    """One entry of the list. The time of creation is not known, so `created` is 0."""
    owner, slash, _ = name.partition("/")
    return {"id": name, "object": "model", "created": 0, "owned_by": owner if slash else _SYSTEM}
