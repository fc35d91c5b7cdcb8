"""Numbers, flags and words in the spellings of clients without types: text, floats, capitals. Pure.

A value without a clear meaning stays as it is, and is refused by name where it is used.
"""

import re
from typing import Any

import orjson

_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?", re.ASCII)
_NUMBERS = frozenset(
    {
        *("max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "seed", "n", "best_of"),
        *("frequency_penalty", "presence_penalty", "repetition_penalty", "top_logprobs", "dimensions"),
    }
)
_LIMITS = frozenset({"max_tokens", "max_completion_tokens"})
_NO_LIMIT = -1
_FLAGS = {"true": True, "false": False, 1: True, 0: False}


def read_scalar(name: str, value: Any) -> Any:
    """The value of a field of a body. A limit of -1, llama.cpp's and LM Studio's word for none, is absent."""
    if name not in _NUMBERS:
        return value
    number = read_number(value)
    return None if name in _LIMITS and number == _NO_LIMIT else number


def read_number(value: Any) -> Any:
    """A number, also from a text; a whole one is an integer."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = orjson.loads(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def read_flag(value: Any) -> Any:
    """True or false, also from `"true"` or 1."""
    return _FLAGS.get(value.lower() if isinstance(value, str) else value, value) if _is_plain(value) else value


def read_word(value: Any) -> Any:
    """A word in small letters; an empty one is absent."""
    return value.lower() or None if isinstance(value, str) else value


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int))
