"""Lists of models, with their providers if the router sent them: `GET /v1/models` of any server. Pure."""

from collections.abc import Mapping
from typing import Any

from server.inference.events import LiveModel, LiveProvider
from server.inference.protocol.texts import Unintelligible, clean, parse_json
from server.inference.protocol.usage import read_count

MAX_MODELS = 5000
MAX_PROVIDERS = 32
MAX_NAME = 200
MAX_PRICE = 1e6
"""Dollars per million tokens."""
_PRICES = ("input", "output")


def read_models(body: bytes) -> list[str]:
    """Their ids, in the order given. Raises `Unintelligible` for another shape."""
    names = map(_id_of, _entries(body))
    return [name for name in names if isinstance(name, str) and name]


def _entries(body: bytes) -> list[Any]:
    """OpenAI's `{"data": [{"id"}]}`, Ollama's `{"models": [{"name"}]}`, or a bare list.

    Raises `Unintelligible` for anything else.
    """
    document = parse_json(body)
    if isinstance(document, dict):
        document = document.get("data") or document.get("models") or []
    if not isinstance(document, list):
        raise Unintelligible
    return document


def _id_of(entry: Any) -> Any:
    """The value at the place of the id, which may be no string."""
    return (entry.get("id") or entry.get("name")) if isinstance(entry, dict) else entry


def read_live_models(body: bytes) -> tuple[LiveModel, ...]:
    """The shapes of `read_models`, with the router's additions. Raises `Unintelligible` for anything else."""
    models = map(_model, _entries(body)[:MAX_MODELS])
    return tuple(model for model in models if model is not None)


def _model(entry: Any) -> LiveModel | None:
    name = _name(_id_of(entry))
    if name is None:
        return None
    providers = entry.get("providers") if isinstance(entry, dict) else None
    found = map(_provider, providers[:MAX_PROVIDERS] if isinstance(providers, list) else [])
    return LiveModel(name, tuple(provider for provider in found if provider is not None))


def _provider(entry: Any) -> LiveProvider | None:
    if not isinstance(entry, dict) or (name := _name(entry.get("provider"))) is None:
        return None
    tools = entry.get("supports_tools")
    return LiveProvider(
        name,
        status=_name(entry.get("status")),
        context_length=read_count(entry.get("context_length")),
        pricing=_pricing(entry.get("pricing")),
        supports_tools=tools if isinstance(tools, bool) else None,
    )


def _pricing(found: Any) -> Mapping[str, float] | None:
    if not isinstance(found, dict):
        return None
    prices = {name: found[name] for name in _PRICES if _is_price(found.get(name))}
    return prices or None


def _is_price(value: Any) -> bool:
    """False for NaN and for integers that JSON cannot represent."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= MAX_PRICE


def _name(value: Any) -> str | None:
    return clean(value) if isinstance(value, str) and 0 < len(value) <= MAX_NAME else None
