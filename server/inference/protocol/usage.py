"""Token counts as upstream reports them; unknown if missing."""

from collections.abc import Mapping
from typing import Any

from server.model_request import Usage

MAX_COUNT = 2**31 - 1
"""Token counts are kept in an `integer` column."""
_COUNTS = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})
_DETAILS: dict[str, dict[str, tuple[str, ...]]] = {
    "prompt_tokens_details": {
        "cached_tokens": ("cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens"),
        "audio_tokens": (),
    },
    "completion_tokens_details": {
        "reasoning_tokens": ("reasoning_tokens",),
        "audio_tokens": (),
        "accepted_prediction_tokens": (),
        "rejected_prediction_tokens": (),
    },
}
"""OpenAI's details, and the names under which others (Moonshot, DeepSeek, Anthropic) have a count in `usage` itself."""


def read_usage(usage: Any) -> Usage:
    """Usage in OpenAI's shape; missing and absurd counts are None.

    Where the total is larger than prompt and completion, the completion is without the reasoning.
    """
    if not isinstance(usage, dict):
        return Usage()
    generated = read_count(usage.get("completion_tokens"))
    prompt, used = read_count(usage.get("prompt_tokens")), read_count(usage.get("total_tokens"))
    if prompt is not None and generated is not None and used is not None and used > prompt + generated:
        generated = used - prompt
    if usage.get("total_tokens") is None:
        used = add_counts(usage.get("prompt_tokens"), generated)
    return Usage(used, generated, prompt, {} if usage.keys() <= _COUNTS else _read_details(usage))


def _read_details(usage: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    details: dict[str, dict[str, int]] = {}
    for place, names in _DETAILS.items():
        inner = usage.get(place)
        inner = inner if isinstance(inner, dict) else {}
        for name, elsewhere in names.items():
            found = (read_count(value) for value in (inner.get(name), *(usage.get(other) for other in elsewhere)))
            if (count := next((count for count in found if count is not None), None)) is not None:
                details.setdefault(place, {})[name] = count
    return details


def read_count(value: Any) -> int | None:
    """A count, also as a float such as 12.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT
    return value if is_count else None


def add_counts(prompt: Any, generated: int | None) -> int | None:
    prompt = read_count(prompt)
    return None if prompt is None or generated is None else read_count(prompt + generated)
