"""The id of a model at a provider: the Hub is asked before the provider.

`GET https://huggingface.co/api/models/{id}?expand=inferenceProviderMapping`, as both official clients do. The mapping
is an object by provider, or an array; a model that was renamed is found by a redirect.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from server.inference.events import Task
from server.inference.protocol.wire import WireRequest

HUB_URL = "https://huggingface.co"
_EXPAND = "?expand=inferenceProviderMapping"
_USABLE = frozenset({"live", "staging"})


class NativeModel(NamedTuple):
    """A model at its provider.

    `adapter_url` is the address of weights (LoRA) that change the provider's base model into this model.
    """

    id: str
    adapter_url: str | None = None


def build_lookup(name: str) -> WireRequest:
    return _get(f"{HUB_URL}/api/models/{quote(name)}{_EXPAND}")


def follow_redirect(location: str) -> WireRequest | None:
    """The request for a model's new name; None for an address that is not the Hub's."""
    url = urljoin(HUB_URL, location)
    return _get(url) if urlsplit(url)[:2] == urlsplit(HUB_URL)[:2] else None


def read_native_model(document: Any, provider: str, task: Task) -> NativeModel | None:
    """None where the provider does not serve this model for this task."""
    mapping = document.get("inferenceProviderMapping") if isinstance(document, dict) else None
    if isinstance(mapping, dict):
        entries = [(name, entry) for name, entry in mapping.items()]
    else:
        entries = [(_text(entry, "provider"), entry) for entry in (mapping if isinstance(mapping, list) else [])]
    for name, entry in entries:
        if name == provider and _text(entry, "task") == task and _text(entry, "status") in _USABLE:
            return _native_model(entry, _text(document, "id"))
    return None


def _native_model(entry: Any, repository: str) -> NativeModel | None:
    native_id, weights = _text(entry, "providerId"), _text(entry, "adapterWeightsPath")
    adapter_url = f"{HUB_URL}/{repository}/resolve/main/{weights}" if weights and repository else None
    return NativeModel(native_id, adapter_url) if native_id else None


def _text(entry: Any, name: str) -> str:
    value = entry.get(name) if isinstance(entry, Mapping) else None
    return value if isinstance(value, str) else ""


def _get(url: str) -> WireRequest:
    """A request without the token, which is for the router."""
    return WireRequest("GET", url, {"Accept": "application/json"}, is_foreign=True)
