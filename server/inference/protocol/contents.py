"""Text and reasoning of a message or of a delta, in the fields and parts in which providers have them. Pure."""

from collections.abc import Mapping
from typing import Any

_REASONING = (
    "reasoning_content",
    "reasoning",
    "reasoning_text",
    "thinking",
    "reasoning_details",
    "thinking_blocks",
)
"""Fields of reasoning. Where several are given, they say the same."""
REASONING_FIELDS = frozenset(_REASONING)
_TEXTS = ("text", "content", "thinking", "reasoning", "summary")
"""Fields of an object that is a text: a part, or a piece of reasoning."""
_MAX_LEVELS = 4


def reasoning_of(delta: Mapping[str, Any]) -> str:
    return next((text for name in _REASONING if (text := text_of(delta.get(name)))), "")


def is_thought(part: Mapping[str, Any]) -> bool:
    """Whether a part of the content is reasoning. Mistral's thoughts have parts inside."""
    return "thinking" in part or str(part.get("type")).startswith(("thinking", "reasoning"))


def text_of(value: Any, *, levels: int = _MAX_LEVELS) -> str:
    """The text of a string, of an object with a text, or of a list of both."""
    if isinstance(value, str):
        return value
    if not levels:
        return ""
    if isinstance(value, list):
        return "".join(text_of(item, levels=levels - 1) for item in value)
    if isinstance(value, dict):
        return next((text for name in _TEXTS if (text := text_of(value.get(name), levels=levels - 1))), "")
    return ""
