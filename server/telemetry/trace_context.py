"""W3C Trace Context: the trace that a caller is part of, for the log and for the call upstream."""

import re
from contextvars import ContextVar

HEADER = "traceparent"
_FORM = re.compile(
    r"(?P<version>(?!ff)[0-9a-f]{2})-(?P<trace_id>(?!0{32})[0-9a-f]{32})-(?P<parent_id>(?!0{16})[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<rest>-.*)?",
    re.ASCII,
)
_TRACE_ID = slice(3, 35)

TRACEPARENT: ContextVar[str | None] = ContextVar("traceparent", default=None)
"""The valid header of the request that the current task serves, or of the model request that it runs."""


def read_traceparent(header: str | None) -> str | None:
    """The header in the form of version 00; None for none and for an invalid one.

    A later version may have more fields, which are left out (section 4.3 of the specification).
    """
    match = None if header is None else _FORM.fullmatch(header)
    if match is None or (match["version"] == "00" and match["rest"]):
        return None
    return f"00-{match['trace_id']}-{match['parent_id']}-{match['flags']}"


def trace_id_of(traceparent: str | None) -> str | None:
    return None if traceparent is None else traceparent[_TRACE_ID]
