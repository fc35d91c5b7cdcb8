"""The metrics for Prometheus, with a token or for this machine only."""

import functools
import secrets

from aiohttp import hdrs, web

from server.auth.tokens import bearer_token
from server.errors import NotFound, Unauthenticated
from server.http import keys
from server.http.marks import always_up
from server.limits.rates import find_client_ip
from server.monitoring.families import render
from server.openapi import parts
from server.openapi.operation import Operation, Route

_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via")
"""Headers that proxies add. A proxy on this machine connects from a loopback address for clients that are elsewhere."""


def routes() -> tuple[Route, ...]:
    route = functools.partial(Route, "Operation")
    described = {"200": parts.text_answer("All metrics of all workers of this server.", "text/plain")}
    operation = Operation(
        "metrics",
        "Metrics for Prometheus",
        described,
        description="With METRICS_TOKEN as bearer token. Without it, only clients on the same machine find it.",
        problems=(Unauthenticated, NotFound),
    )
    return (route("GET", "/metrics", metrics, operation),)


@always_up
async def metrics(request: web.Request) -> web.Response:
    """Works without the database: then the metrics of the backlog are absent."""
    _require_access(request)
    families = await request.app[keys.METRICS].collect()
    body, content_type = render(families, request.headers.get(hdrs.ACCEPT, ""))
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type})


def _require_access(request: web.Request) -> None:
    token = request.app[keys.SETTINGS].metrics_token
    if token is None:
        if not _is_local(request):
            raise NotFound("There is nothing at this path; see /docs.")
        return
    given = bearer_token(request.headers.getall(hdrs.AUTHORIZATION, []))
    if not secrets.compare_digest(given.encode(errors="surrogateescape"), token.get_secret_value().encode()):
        raise Unauthenticated


def _is_local(request: web.Request) -> bool:
    """Whether the client is on this machine and did not come through a proxy."""
    if any(name in request.headers for name in _FORWARDED):
        return False
    address = find_client_ip((), request.remote, ())
    return address is not None and address.is_loopback
