"""Token counts as upstream reports them; unknown if missing."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from server.model_request import NO_USAGE, Usage

MAX_COUNT = 2**31 - 1
"""Token counts are kept in an `integer` column."""
_COUNTS = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})
_NEWER = {"prompt_tokens_details": "input_tokens_details", "completion_tokens_details": "output_tokens_details"}
"""The names of details in OpenAI's newer protocol."""
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
    """Usage in OpenAI's shape, or with the names of its newer protocol; missing and absurd counts are None.

    Where the total is larger than prompt and completion, the completion is without the reasoning.
    """
    if not isinstance(usage, dict):
        return Usage()
    prompt = _count_of(usage, "prompt_tokens", "input_tokens")
    generated = _count_of(usage, "completion_tokens", "output_tokens")
    used = read_spelled_count(usage.get("total_tokens"))
    if prompt is not None and used is not None and used > prompt + (generated or 0):
        generated = used - prompt
    return with_total(Usage(used, generated, prompt, {} if usage.keys() <= _COUNTS else _read_details(usage)))


def with_total(usage: Usage) -> Usage:
    """With the sum of its parts as the total, if that is missing or smaller: some providers send 0."""
    parts = add_counts(usage.prompt, usage.token_count)
    if parts is None or (usage.token_used is not None and usage.token_used >= parts):
        return usage
    return replace(usage, token_used=parts)


def latest(usage: Usage, earlier: Usage) -> Usage:
    """The counts of `usage`; where it has none, or 0, those from an earlier part of the answer."""
    if earlier is NO_USAGE:
        return usage
    return with_total(
        Usage(
            usage.token_used or _known(earlier.token_used, usage.token_used),
            usage.token_count or _known(earlier.token_count, usage.token_count),
            usage.prompt or _known(earlier.prompt, usage.prompt),
            {**earlier.details, **usage.details},
        )
    )


def _known(first: int | None, second: int | None) -> int | None:
    return second if first is None else first


def _count_of(place: Mapping[str, Any], *names: str) -> int | None:
    counts = (read_spelled_count(place.get(name)) for name in names)
    return next((count for count in counts if count is not None), None)


def _read_details(usage: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    details: dict[str, dict[str, int]] = {}
    for place, names in _DETAILS.items():
        inner = usage.get(place) or usage.get(_NEWER[place])
        for name, elsewhere in names.items():
            count = _count_of(inner, name) if isinstance(inner, dict) else None
            count = _count_of(usage, *elsewhere) if count is None else count
            if count is not None:
                details.setdefault(place, {})[name] = count
    return details


def read_spelled_count(value: Any) -> int | None:
    """As `read_count`, also from a text."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    return read_count(value)


def read_count(value: Any) -> int | None:
    """A count, also as a float such as 12.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT
    return value if is_count else None


def add_counts(prompt: Any, generated: int | None) -> int | None:
    prompt = read_count(prompt)
    return None if prompt is None or generated is None else read_count(prompt + generated)
