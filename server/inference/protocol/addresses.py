"""Addresses upstream: the paths of the router and of self-hosted servers, and the parts of a model's id."""

import re
from urllib.parse import urlsplit

from server.inference.protocol.wire import BadModel

ROUTER_HOST = "router.huggingface.co"
ROUTER_URL = f"https://{ROUTER_HOST}"
POLICIES = frozenset({"fastest", "cheapest", "preferred"})
"""Suffixes that leave the choice of the provider to the router (documented for chat only)."""
HF_INFERENCE = "hf-inference"

_MODEL_ID = re.compile(
    r"(?P<owner>[A-Za-z0-9._-]+)/(?P<name>[A-Za-z0-9._-]+)(?::(?P<suffix>[a-z0-9-]+))?",
    re.ASCII,
)
_DOTS_ONLY = re.compile(r"\.+")


def is_router(base_url: str) -> bool:
    """Whether this is Hugging Face's router, which routes by the model's id, or a self-hosted server."""
    return urlsplit(base_url).hostname == ROUTER_HOST


def api_root(base_url: str) -> str:
    """The URL below which `/chat/completions` is, by the rule of both official clients (makeUrl, _prepare_url)."""
    base_url = base_url.rstrip("/")
    if base_url.endswith("/chat/completions"):
        return base_url.removesuffix("/chat/completions")
    return base_url if base_url.endswith("/v1") else f"{base_url}/v1"


def server_root(base_url: str) -> str:
    """The URL of a self-hosted server for tasks without a path in OpenAI's API, as at an Inference Endpoint."""
    return api_root(base_url).removesuffix("/v1")


def split_id(model: str) -> tuple[str, str | None]:
    """`org/name` and the suffix. Raises `BadModel` for parts of dots alone, which would change the path."""
    match = _MODEL_ID.fullmatch(model)
    if match is None or is_dots(match["owner"]) or is_dots(match["name"]):
        raise BadModel("A model is named as organisation/name or organisation/name:provider.")
    return f"{match['owner']}/{match['name']}", match["suffix"]


def is_dots(segment: str) -> bool:
    return _DOTS_ONLY.fullmatch(segment) is not None


def provider_of(model: str) -> tuple[str, str]:
    """`org/name`, and the provider that its suffix pins; hf-inference where it pins none."""
    name, suffix = split_id(model)
    return name, HF_INFERENCE if suffix is None or suffix in POLICIES else suffix
