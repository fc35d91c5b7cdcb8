"""The list of a server's models."""

from typing import Any

from server.inference.protocol.texts import Unintelligible, parse_json


def read_models(body: bytes) -> list[str]:
    """Their ids, in the order given. Raises `Unintelligible` as `read_entries` does."""
    names = map(name_of, read_entries(body))
    return [name for name in names if isinstance(name, str) and name]


def read_entries(body: bytes) -> list[Any]:
    """OpenAI's `{"data": [{"id"}]}`, Ollama's `{"models": [{"name"}]}`, or a bare list.

    Raises `Unintelligible` for anything else.
    """
    document = parse_json(body)
    if isinstance(document, dict):
        document = document.get("data") or document.get("models") or []
    if not isinstance(document, list):
        raise Unintelligible
    return document


def name_of(entry: Any) -> Any:
    """The value at the place of the id, which may be no string."""
    return (entry.get("id") or entry.get("name")) if isinstance(entry, dict) else entry
