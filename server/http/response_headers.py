"""Headers that every response carries: id, server, security, what is left of a limit, and Vary."""

from aiohttp import hdrs, web

from server.http import keys
from server.limits.rates import RateLimitResult, is_trusted, rate_limit_headers
from server.openai import PREFIX as OPENAI_PREFIX
from server.openai.refusals import limit_headers

REQUEST_ID = "X-Request-Id"
SERVER_NAME = "ai-sdk-server"
"""Replaces aiohttp's own name, which contains versions."""
SECURE_HEADERS = {hdrs.CACHE_CONTROL: "no-store", "X-Content-Type-Options": "nosniff"}
"""Defaults: a handler may set others."""
STRICT_TRANSPORT = "max-age=31536000"
"""A browser that has used TLS once does so for a year."""


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """A receiver of `on_response_prepare`: aiohttp sends it for each response to a request that reached a middleware.

    Responses of the connection itself (malformed requests, too many connections) have no such signal; `server.py` sets
    their headers.
    """
    headers = response.headers
    headers.setdefault(REQUEST_ID, request[keys.REQUEST_ID])
    headers[hdrs.SERVER] = SERVER_NAME
    for name, value in SECURE_HEADERS.items():
        headers.setdefault(name, value)
    proxies = request.app[keys.PROXY_NETWORKS]
    if request.headers.get("X-Forwarded-Proto") == "https" and is_trusted(request.remote, proxies):
        headers[hdrs.STRICT_TRANSPORT_SECURITY] = STRICT_TRANSPORT
    if (result := _tightest_limit(request)) is not None:
        headers.update(rate_limit_headers(result))
        if request.path.startswith(OPENAI_PREFIX):
            headers.update(limit_headers(limit=result.limit, remaining=result.remaining, reset_s=result.reset_s))
    _vary_by_origin(request, response)


def _tightest_limit(request: web.Request) -> RateLimitResult | None:
    """The limit of the user, or that of the API key where less is left of it."""
    result, of_key = request.get(keys.RATE_LIMIT), request.get(keys.KEY_RATE_LIMIT)
    return of_key if of_key is not None and (result is None or of_key.remaining <= result.remaining) else result


def _vary_by_origin(request: web.Request, response: web.StreamResponse) -> None:
    """Tell caches that the response may depend on the origin, and let an allowed origin read a 404 or 405.

    aiohttp-cors works by route, and those responses have none.
    """
    origins = request.app[keys.ALLOWED_ORIGINS]
    if not origins:
        return
    vary = response.headers.get(hdrs.VARY)
    response.headers[hdrs.VARY] = hdrs.ORIGIN if vary is None else f"{vary}, {hdrs.ORIGIN}"
    origin = request.headers.get(hdrs.ORIGIN)
    if request.match_info.http_exception is not None and origin is not None and (origin in origins or "*" in origins):
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
