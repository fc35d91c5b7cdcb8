"""One JSON encoder for every body the server sends and every document it stores."""

import uuid
from typing import Any

import orjson

_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS


def _encode_other(value: Any) -> Any:
    if isinstance(value, uuid.UUID):  # asyncpg returns a subclass of UUID, which orjson does not accept
        return str(value)
    raise TypeError(type(value).__name__)


def dumps(data: Any) -> bytes:
    """JSON bytes; times as RFC 3339 in UTC, UUIDs in canonical form."""
    return orjson.dumps(data, default=_encode_other, option=_OPTIONS)
