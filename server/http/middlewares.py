"""Every request passes these: id and log, errors, load, credentials, limits."""

import re
import time
from collections.abc import Awaitable, Callable
from secrets import token_hex
from typing import Any, TypeVar

import asyncpg
import structlog
from aiohttp import hdrs, web
from aiohttp.http import HttpVersion10, HttpVersion11

from server.auth.tokens import bearer_token
from server.errors import BadSyntax, Problem, RateLimited, ServerFault, Unauthenticated, Unavailable
from server.http import keys
from server.http.error_responses import database_problem, http_response, problem_response
from server.http.response_headers import REQUEST_ID
from server.lifecycle import Phase
from server.limits.rates import client_address
from server.storage.database import DatabaseAway

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
AnyHandler = TypeVar("AnyHandler", bound=Callable[..., Any])

_NOT_A_HOST = re.compile(r"[/?#@\\\s]")
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_PUBLIC = "_is_public"
_ALWAYS_UP = "_works_while_starting"
_BY_ADDRESS = "_is_limited_by_address"
_AS_REFRESH = "_is_limited_as_refresh"
_SHED = "_is_refused_under_overload"

log = structlog.get_logger(__name__)


def public(handler: AnyHandler) -> AnyHandler:
    """Mark a handler that needs no credentials. Every other route requires a token."""
    setattr(handler, _PUBLIC, True)
    return handler


def always_up(handler: AnyHandler) -> AnyHandler:
    """Mark a handler that works without the database: health, documentation, the console."""
    setattr(handler, _ALWAYS_UP, True)
    return public(handler)


def refused_under_overload(handler: AnyHandler) -> AnyHandler:
    """Mark a handler that creates work: an overloaded process refuses it before its body is read."""
    setattr(handler, _SHED, True)
    return handler


def limited_by_address(handler: AnyHandler) -> AnyHandler:
    """Mark a handler that accepts passwords or refresh tokens: public, and limited per client address."""
    setattr(handler, _BY_ADDRESS, True)
    return public(handler)


def limited_as_refresh(condition: Callable[[web.Request], bool]) -> Callable[[AnyHandler], AnyHandler]:
    """Mark a handler that is limited by address: requests that meet `condition` only trade a refresh token.

    They have a rate of their own, and 503 beyond it: clients sign their user out after a 429, and retry after a 503.
    """

    def mark(handler: AnyHandler) -> AnyHandler:
        setattr(handler, _AS_REFRESH, condition)
        return handler

    return mark


def is_public(handler: Handler) -> bool:
    return hasattr(handler, _PUBLIC)


def is_always_up(handler: Handler) -> bool:
    return hasattr(handler, _ALWAYS_UP)


def is_limited_by_address(handler: Handler) -> bool:
    return hasattr(handler, _BY_ADDRESS)


def is_limited_as_refresh(handler: Handler) -> bool:
    return hasattr(handler, _AS_REFRESH)


@web.middleware
async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request an id, and log one line about it: no query string, no headers, no body."""
    given = request.headers.get(REQUEST_ID, "")
    request_id = given if _SAFE_ID.fullmatch(given) else token_hex(8)
    request[keys.REQUEST_ID] = request_id
    started = time.perf_counter()
    status = 499
    try:
        response = await handler(request)
        status = response.status
        return response
    finally:
        resource = request.match_info.route.resource
        principal = request.get(keys.PRINCIPAL)
        log.info(
            "http",
            method=request.method,
            route=resource.canonical if resource is not None else None,
            status=status,
            ms=round((time.perf_counter() - started) * 1000, 1),
            request_id=request_id,
            user=str(principal.user_id) if principal is not None else None,
        )


@web.middleware
async def translate_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every exception into an error response, which contains nothing internal."""
    try:
        _require_plain_http(request)
        return await handler(request)
    except Problem as problem:
        return problem_response(request, problem)
    except web.HTTPException as error:
        return http_response(request, error)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, DatabaseAway, OSError) as error:
        return problem_response(request, database_problem(error, request_id=request[keys.REQUEST_ID]))
    except Exception:
        log.exception("request_failed", request_id=request[keys.REQUEST_ID])
        return problem_response(request, ServerFault())


@web.middleware
async def shed(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse new work cheaply under overload, so that accepted work ends in time."""
    if hasattr(request.match_info.handler, _SHED):
        request.app[keys.REQUESTS].require_capacity()
    return await handler(request)


@web.middleware
async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Verify the token and put the principal on the request, unless the handler is marked public."""
    target = request.match_info.handler
    if request.app[keys.LIFECYCLE].phase is Phase.STARTING and not hasattr(target, _ALWAYS_UP):
        raise Unavailable(f"Starting: {request.app[keys.LIFECYCLE].reason}.", retry_after_s=2)
    is_open = hasattr(target, _PUBLIC) or request.method == hdrs.METH_OPTIONS
    if is_open or request.match_info.http_exception is not None:
        return await handler(request)
    credentials = request.headers.getall(hdrs.AUTHORIZATION, [])
    try:
        request[keys.PRINCIPAL] = await request.app[keys.VERIFIER].identify(bearer_token(credentials))
        return await handler(request)
    except Unauthenticated as problem:
        if any(value.lower().startswith("bearer ") for value in credentials):
            problem.blame_token()
        raise


@web.middleware
async def limit(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Limit each user, and each client address where credentials are tried.

    Creates have a lower limit, which their handler applies: it may queue a request beyond the limit.
    """
    principal = request.get(keys.PRINCIPAL)
    result = None
    is_refresh = False
    if principal is not None:
        result = request.app[keys.READ_LIMITER].check(str(principal.user_id))
    elif hasattr(request.match_info.handler, _BY_ADDRESS):
        is_refresh = _is_refresh(request)
        settings = request.app[keys.SETTINGS]
        address = client_address(request.headers.getall("X-Forwarded-For", []), request.remote, settings.proxy_networks)
        result = request.app[keys.REFRESH_LIMITER if is_refresh else keys.AUTH_LIMITER].check(address)
    if result is not None:
        request[keys.RATE_LIMIT] = result
        if not result.allowed:
            kind, words = (Unavailable, "refreshes") if is_refresh else (RateLimited, "requests")
            raise kind(f"Too many {words}; slow down.", retry_after_s=result.retry_after_s)
    return await handler(request)


def _is_refresh(request: web.Request) -> bool:
    condition = getattr(request.match_info.handler, _AS_REFRESH, None)
    return condition is not None and condition(request)


MIDDLEWARES = (observe, translate_errors, shed, authenticate, limit)


def _require_plain_http(request: web.Request) -> None:
    """Refuse requests that aiohttp accepts: other versions of HTTP, odd framing, a URL as the Host."""
    coding = request.headers.get(hdrs.TRANSFER_ENCODING)
    if request.version not in {HttpVersion10, HttpVersion11}:
        raise BadSyntax("This is not a valid HTTP/1.1 request: speak HTTP/1.1.")
    if coding is not None and (coding.lower() != "chunked" or request.version != HttpVersion11):
        raise BadSyntax("This is not a valid HTTP/1.1 request: Transfer-Encoding must be chunked.")
    if _NOT_A_HOST.search(request.headers.get(hdrs.HOST, "")):
        raise BadSyntax("This is not a valid HTTP/1.1 request: Host must be a name or address, with or without a port.")
    if request.headers.get(hdrs.EXPECT, "100-continue").lower() != "100-continue":
        raise BadSyntax("Expect: only 100-continue is understood.")
