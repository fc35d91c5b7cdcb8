"""How long a client wants to wait: `Prefer` (RFC 7240) and `?wait=`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from server.errors import FieldError, Invalid

_ITEM = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*")+')
_LIST = re.compile(rf"(?:{_ITEM.pattern})?(?:,(?:{_ITEM.pattern})?)*")
_WAIT = re.compile(r'wait[ \t]*=[ \t]*(?:"(\d{1,18})"|(\d{1,18}))', re.ASCII | re.IGNORECASE)
_ASYNC = re.compile(r"respond-async", re.ASCII | re.IGNORECASE)
_SECONDS = re.compile(r"\d{1,19}(?:\.\d{1,6})?", re.ASCII)


@dataclass(slots=True)
class Waiting:
    """Seconds to wait, already capped, and the preference that was applied, for `Preference-Applied`."""

    seconds: float
    applied: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.applied is None else {"Preference-Applied": self.applied}


def read_preferences(headers: Sequence[str], *, default_s: float, max_s: float) -> Waiting:
    """`respond-async` takes precedence over `wait=N`. Malformed or unknown preferences are ignored (RFC 7240)."""
    well_formed = (header for header in headers if _LIST.fullmatch(header))
    preferences = [item.split(";")[0].strip() for header in well_formed for item in _ITEM.findall(header)]
    if any(_ASYNC.fullmatch(item) for item in preferences):
        return Waiting(0.0, "respond-async")
    for item in preferences:
        if match := _WAIT.fullmatch(item):
            seconds = min(float(match[1] or match[2]), max_s)
            return Waiting(seconds, f"wait={seconds:g}")
    return Waiting(default_s)


def read_wait_parameter(value: str, *, max_s: float) -> Waiting:
    """`?wait=30`: seconds, capped. Raises `Invalid` for anything that is not a number of at least 0."""
    if not _SECONDS.fullmatch(value):
        raise Invalid("wait: must be a number of seconds, such as 30.", errors=[FieldError("wait", "must be a number")])
    return Waiting(min(float(value), max_s))
