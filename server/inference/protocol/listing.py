"""The models that a server says it has."""

from typing import Any

from server.inference.protocol.texts import Unintelligible, parse_json


def read_models(body: bytes) -> list[str]:
    """Their ids, in the order given: OpenAI's `{"data": [{"id"}]}`, Ollama's `{"models": [{"name"}]}`, or a bare list.

    Raises `Unintelligible` for anything else.
    """
    document = parse_json(body)
    if isinstance(document, dict):
        document = document.get("data") or document.get("models") or []
    if not isinstance(document, list):
        raise Unintelligible
    return [name for name in map(_name_of, document) if name]


def _name_of(entry: Any) -> str:
    name = (entry.get("id") or entry.get("name")) if isinstance(entry, dict) else entry
    return name if isinstance(name, str) else ""
