"""The usage of the user, its cost, and the rest of the limits."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import hdrs, web

from server.auth.principal import Scope
from server.encoding import dumps
from server.errors import Invalid
from server.http import keys
from server.http.entity_tags import has_tag, weak_tag
from server.http.parameters import read_usage_filters
from server.http.responses import raw_json_response
from server.openapi import parts
from server.openapi.objects import UsageReportObject
from server.openapi.operation import Operation, Route
from server.requests.usage import add_up


def routes() -> tuple[Route, ...]:
    day = parts.TEXT | {"format": "date", "examples": ["2026-11-23"]}
    groups = parts.TEXT | {"enum": ["day", "model", "day,model"], "default": "day,model"}
    operation = Operation(
        "get_usage", "The user's usage, its cost, and the limits",
        {
            "200": parts.json_answer("Totals of the period, and the limits now.", UsageReportObject, "ETag"),
            "304": parts.empty_answer("Unchanged.", "ETag"),
        },
        "A request counts on the UTC day on which it ended, in the same transaction; deleted ones stay counted.",
        parameters=(
            parts.query("from", "The first day; by default the period has 30 days.", day),
            parts.query("to", "The last day; by default today.", day),
            parts.query("group_by", "A row for each day, for each model, or for both.", groups),
        ),
        problems=(Invalid,), scope=Scope.USAGE,
    )  # fmt: skip
    return (Route("Usage", "GET", "/api/usage", get_usage, operation),)


async def get_usage(request: web.Request) -> web.Response:
    """Totals by day and model, their sum, and the limits of the user."""
    filters = read_usage_filters(request)
    rows = await request.app[keys.USAGE].read(request[keys.PRINCIPAL].user_id, filters)
    body = dumps({"data": rows, "total": add_up(rows), "limits": await _limits(request)})
    headers: dict[str, str] = {hdrs.ETAG: weak_tag(hashlib.sha256(body).hexdigest()[:16])}
    if has_tag(request, headers[hdrs.ETAG]):
        return web.Response(status=304, headers=headers)
    return raw_json_response(body, headers=headers)


async def _limits(request: web.Request) -> list[dict[str, Any]]:
    """Limits that are off are not shown."""
    result = await request.app[keys.CREATE_LIMITER].look(request[keys.PRINCIPAL].user_id)
    if result is None:
        return []
    resets_at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=result.reset_s)
    return [
        {
            "name": "requests_per_minute",
            "limit": result.limit,
            "used": result.limit - result.remaining,
            "remaining": result.remaining,
            "resets_at": resets_at if result.reset_s else None,
        }
    ]
