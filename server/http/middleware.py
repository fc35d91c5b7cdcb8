"""The one middleware: id and log, errors, load, credentials, limits, and how a body is sent.

One function calls the steps, because each middleware of aiohttp costs every request another coroutine.
"""

import re
import time
from secrets import token_hex

import asyncpg
import structlog
from aiohttp import hdrs, web
from aiohttp.http import HttpVersion10, HttpVersion11

from server.errors import BadSyntax, Problem, RateLimited, ServerFault, Unauthenticated, Unavailable
from server.http import keys
from server.http.addresses import client_ip, rate_key
from server.http.compression import compress
from server.http.credentials import has_credentials, identify, require_scope
from server.http.error_responses import database_problem, http_response, problem_response
from server.http.large_responses import send_large
from server.http.marks import Handler, Marks, marks_of
from server.http.response_headers import REQUEST_ID
from server.lifecycle import Phase
from server.limits.rates import RateLimitResult
from server.storage.database import DatabaseAway
from server.telemetry.trace_context import HEADER, TRACEPARENT, read_traceparent, trace_id_of

_NOT_A_HOST = re.compile(r"[/?#@\\\s]")
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_OTHER_METHOD = "_OTHER"
"""OpenTelemetry's name for methods that HTTP does not define, in metrics."""
_VERSIONS = frozenset({HttpVersion10, HttpVersion11})

log = structlog.get_logger(__name__)


@web.middleware
async def serve(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request an id, answer it, and log one line about it: no query string, no headers, no body."""
    headers, app = request.headers, request.app
    given = headers.get(REQUEST_ID)
    request_id = given if given is not None and _SAFE_ID.fullmatch(given) else token_hex(8)
    request[keys.REQUEST_ID] = request_id
    traceparent = read_traceparent(headers.get(HEADER))
    TRACEPARENT.set(traceparent)  # every time, because a connection serves all its requests in one task
    started = time.perf_counter()
    status = 499
    try:
        response = await _answer(request, handler)
        status = response.status
        return response
    finally:
        taken_s = time.perf_counter() - started
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else None
        method = request.method if request.method in hdrs.METH_ALL else _OTHER_METHOD
        app[keys.METRICS].sources.http.observe(taken_s, (method, route or "", str(status)))
        principal = request.get(keys.PRINCIPAL)
        key = principal.key if principal is not None else None
        log.info(
            "http",
            method=request.method,
            route=route,
            status=status,
            ms=round(taken_s * 1000, 1),
            request_id=request_id,
            user=principal.user_id if principal is not None else None,
            id=request.get(keys.MODEL_REQUEST_ID),
            **({} if key is None else {"key_id": key.id}),
            client=None if (address := client_ip(request)) is None else str(address),
            code=request.get(keys.ERROR_CODE),
            trace_id=trace_id_of(traceparent),
        )


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every exception into an error response, which contains nothing internal."""
    try:
        _require_plain_http(request)
        return await _call(request, handler)
    except Problem as problem:
        return problem_response(request, problem)
    except web.HTTPException as error:
        return http_response(request, error)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, DatabaseAway, OSError) as error:
        return problem_response(request, database_problem(error, request_id=request[keys.REQUEST_ID]))
    except Exception:
        log.exception("request_failed", request_id=request[keys.REQUEST_ID])
        return problem_response(request, ServerFault())


async def _call(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Check what the handler's marks ask for, cheapest check first, and call it."""
    marks = marks_of(request.match_info.handler)
    if marks.is_refused_under_overload:
        request.app[keys.REQUESTS].require_capacity()
    lifecycle = request.app[keys.LIFECYCLE]
    if lifecycle.phase is Phase.STARTING and not marks.is_always_up:
        raise Unavailable(f"Starting: {lifecycle.reason}.", retry_after_s=2)
    if marks.is_public or request.method == hdrs.METH_OPTIONS or request.match_info.http_exception is not None:
        if marks.is_limited_by_address:
            _limit_address(request, marks)
        response = await handler(request)
    else:
        response = await _call_for_user(request, handler, marks)
    if isinstance(response, web.Response):
        await compress(request, response)
        await send_large(request, response)
    return response


async def _call_for_user(request: web.Request, handler: Handler, marks: Marks) -> web.StreamResponse:
    """Identify the caller, put the principal on the request, limit the user's calls, and check the scope of a key.

    Creates have a lower limit, which their handler applies: it may queue a request beyond the limit.
    """
    try:
        principal = request[keys.PRINCIPAL] = await identify(request)
        if (result := request.app[keys.READ_LIMITER].check(principal.user_id)) is not None:
            request[keys.RATE_LIMIT] = result
            _require_allowed(result)
        if (key := principal.key) is not None:
            require_scope(request, key)
            if marks.is_refused_under_overload and key.rates is not None and (result := key.rates.check(key.id)):
                request[keys.KEY_RATE_LIMIT] = result
                _require_allowed(result)
        return await handler(request)
    except Unauthenticated as problem:
        if has_credentials(request):
            problem.blame_token()
        raise


def _require_allowed(result: RateLimitResult) -> None:
    if not result.allowed:
        raise RateLimited("Too many requests; slow down.", retry_after_s=result.retry_after_s)


def _limit_address(request: web.Request, marks: Marks) -> None:
    """Limit each client address where credentials are tried."""
    is_refresh = marks.is_refresh is not None and marks.is_refresh(request)
    result = request.app[keys.REFRESH_LIMITER if is_refresh else keys.AUTH_LIMITER].check(rate_key(request))
    if result is not None:
        request[keys.RATE_LIMIT] = result
        if not result.allowed:
            kind, words = (Unavailable, "refreshes") if is_refresh else (RateLimited, "requests")
            raise kind(f"Too many {words}; slow down.", retry_after_s=result.retry_after_s)


def _require_plain_http(request: web.Request) -> None:
    """Refuse requests that aiohttp accepts: other versions of HTTP, odd framing, a URL or another site as the Host."""
    headers = request.headers
    coding = headers.get(hdrs.TRANSFER_ENCODING)
    if request.version not in _VERSIONS:
        raise BadSyntax("This is not a valid HTTP/1.1 request: speak HTTP/1.1.")
    if coding is not None and (coding.lower() != "chunked" or request.version != HttpVersion11):
        raise BadSyntax("This is not a valid HTTP/1.1 request: Transfer-Encoding must be chunked.")
    host = headers.get(hdrs.HOST, "")
    if _NOT_A_HOST.search(host):
        raise BadSyntax("This is not a valid HTTP/1.1 request: Host must be a name or address, with or without a port.")
    if not request.app[keys.ALLOWED_HOSTS].accepts(host):
        raise BadSyntax("Host: the server does not answer to this name. Its operator can add it to ALLOWED_HOSTS.")
    expected = headers.get(hdrs.EXPECT)
    if expected is not None and expected.lower() != "100-continue":
        raise BadSyntax("Expect: only 100-continue is understood.")
