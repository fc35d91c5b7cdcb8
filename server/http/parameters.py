"""Strict parsing of the path, the query and the headers of a request."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from aiohttp import hdrs, web

from server.errors import BadSyntax, FieldError, NotFound
from server.model_request import RequestId, Status
from server.requests.history import Filters
from server.requests.usage import DEFAULT_DAYS, GROUPS, MAX_DAYS, UsageFilters
from server.schemas import invalid

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_KEY = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?", re.ASCII)
MAX_PARAMETERS: Final = 32
_MAX_PAGE: Final = 1000
_PERIOD = timedelta(days=DEFAULT_DAYS - 1)
_NOT_A_DAY = "must be a day such as 2026-11-23"
_FILTER_FIELDS = {"model_type": "model_types"}
_QUALITY = re.compile(r"q\s*=\s*(0?\.\d+|0\.?|1(?:\.0*)?)", re.ASCII)


def read_idempotency_key(request: web.Request) -> str | None:
    """A structured-field string in quotes, or the bare key that most clients send."""
    values = request.headers.getall("Idempotency-Key", [])
    if not values:
        return None
    key = values[0]
    if len(values) == 1 and len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if len(values) > 1 or not _KEY.fullmatch(key):
        raise BadSyntax(
            "Idempotency-Key: send it once, 1 to 255 visible ASCII characters.",
            errors=[FieldError("Idempotency-Key", "must be one value of 1 to 255 visible ASCII characters")],
        )
    return key


def accepts_events(request: web.Request) -> bool:
    """Whether the client asks for a stream: `Accept` names `text/event-stream`, and prefers nothing else to it.

    Quality values count (RFC 9110, 12.5.1). At the same quality a client that names the stream gets it.
    """
    accepted = ",".join(request.headers.getall(hdrs.ACCEPT, [])).lower()
    if "event-stream" not in accepted:
        return False
    qualities: dict[str, float] = {}
    for item in accepted.split(","):
        media, *parameters = (part.strip() for part in item.split(";"))
        matches = (_QUALITY.fullmatch(parameter) for parameter in parameters)
        quality = next((float(match[1]) for match in matches if match is not None), 1.0)
        qualities[media] = max(quality, qualities.get(media, 0.0))
    stream = qualities.get("text/event-stream", 0.0)
    ranges = ("application/json", "application/*", "*/*")  # the most specific range decides
    return stream > 0 and stream >= next((qualities[media] for media in ranges if media in qualities), 0.0)


def read_id(text: str) -> RequestId:
    return RequestId(read_uuid(text, otherwise="There is no model request of yours with this id."))


def read_uuid(text: str, *, otherwise: str) -> UUID:
    """An id from a path. Raises `NotFound` with the message `otherwise` for a text that is no UUID."""
    if not _UUID.fullmatch(text):
        raise NotFound(otherwise)
    return UUID(text)


def read_filters(request: web.Request) -> Filters:
    readers: dict[str, Any] = {
        "limit": _read_limit,
        "cursor": _read_cursor,
        "status": _read_status,
        "model_type": _read_model_type,
        "created_after": _read_time,
        "created_before": _read_time,
    }
    values = _read_query(request, readers)
    return Filters(**{_FILTER_FIELDS.get(name, name): value for name, value in values.items()})


def read_usage_filters(request: web.Request) -> UsageFilters:
    """Without `to` the last day is today in UTC, without `from` the period has `DEFAULT_DAYS`."""
    values = _read_query(request, {"from": _read_day, "to": _read_day, "group_by": _read_groups})
    last = values.get("to") or datetime.now(UTC).date()
    first = values.get("from") or max(date.min + _PERIOD, last) - _PERIOD
    if not first <= last:
        raise invalid([FieldError("from", "must not be after to")])
    if (last - first).days >= MAX_DAYS:
        raise invalid([FieldError("from", f"must be less than {MAX_DAYS} days before to")])
    return UsageFilters(first, last, values.get("group_by", GROUPS))


def _read_query(request: web.Request, readers: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The values of the known parameters that are given. Raises `Invalid` with all faults."""
    if len(request.query) > MAX_PARAMETERS:
        raise invalid([FieldError("(query)", f"has too many parameters: it may have {MAX_PARAMETERS}")])
    values, errors = {}, []
    for name in dict.fromkeys(request.query):
        if name not in readers:
            errors.append(FieldError(name[:200] or "(empty)", "is not a known parameter"))
            continue
        try:
            values[name] = readers[name](single(request, name))
        except ValueError as error:
            errors.append(FieldError(name, str(error)))
    if errors:
        raise invalid(errors)
    return values


def single(request: web.Request, name: str) -> str:
    values = request.query.getall(name)
    if len(values) > 1:
        raise invalid([FieldError(name, "must be given once")])
    return values[0]


def _read_limit(text: str) -> int:
    if not re.fullmatch(r"\d{1,4}", text, re.ASCII) or not 1 <= int(text) <= _MAX_PAGE:
        raise ValueError(f"must be a whole number from 1 to {_MAX_PAGE}")
    return int(text)


def _read_cursor(text: str) -> UUID:
    if not _UUID.fullmatch(text):
        raise ValueError("must be taken from the Link header of the page before")
    return UUID(text)


def _read_status(text: str) -> Status:
    try:
        return Status(text)
    except ValueError:
        raise ValueError("must be one of " + ", ".join(Status)) from None


def _read_day(text: str) -> date:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
        raise ValueError(_NOT_A_DAY)
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(_NOT_A_DAY) from None


def _read_groups(text: str) -> frozenset[str]:
    names = frozenset(text.split(","))
    if not names <= GROUPS:
        raise ValueError("must be day, model, or both with a comma between them")
    return names


def _read_model_type(text: str) -> tuple[str, ...]:
    if not re.fullmatch(r"[a-z0-9-]{1,64}", text, re.ASCII):
        raise ValueError("must be the name of a model type")
    return (text,)


def _read_time(text: str) -> datetime:
    problem = "must be a time with its offset, such as 2026-11-23T08:00:00Z"
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        raise ValueError(problem) from None
    if moment.tzinfo is None:
        raise ValueError(problem)
    if not 1970 <= moment.year <= 9000:  # noqa: PLR2004
        raise ValueError("must be a time of the years 1970 to 9000")
    return moment
