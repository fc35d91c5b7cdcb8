"""What every request passes: id and log, errors, credentials, limits. Only here does an error become a response."""

import re
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from secrets import token_hex
from typing import Any, TypeVar

import asyncpg
import structlog
from aiohttp import hdrs, web
from aiohttp.http import HttpVersion10, HttpVersion11

from server.auth.gotrue.refusals import problem_wording
from server.auth.tokens import bearer_token
from server.errors import (
    BadSyntax,
    Forbidden,
    Invalid,
    MethodNotAllowed,
    NotFound,
    Problem,
    RateLimited,
    ServerFault,
    Unauthenticated,
    Unavailable,
)
from server.http import keys
from server.http.responses import json_response
from server.lifecycle import Phase
from server.limits.rates import RateLimitResult, client_address, rate_limit_headers
from server.openai import PREFIX as OPENAI_PREFIX
from server.openai import refusals as openai
from server.storage.database import DatabaseAway
from server.storage.faults import Fault, classify

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
AnyHandler = TypeVar("AnyHandler", bound=Callable[..., Any])

_NOT_A_HOST = re.compile(r"[/?#@\\\s]")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
SERVER_NAME = "ai-sdk-server"
"""In place of aiohttp's own, which names versions."""
GOTRUE_PREFIX = "/auth/v1/"
"""Below it, errors have the shape that clients of Supabase Auth read."""
_PUBLIC = "_is_public"
_ALWAYS_UP = "_works_while_starting"
_BY_ADDRESS = "_is_limited_by_address"
_SHED = "_is_refused_under_overload"
SECURE_HEADERS = {hdrs.CACHE_CONTROL: "no-store", "X-Content-Type-Options": "nosniff"}
"""On every answer that does not say otherwise."""

log = structlog.get_logger(__name__)


def public(handler: AnyHandler) -> AnyHandler:
    """Mark a handler that needs no credentials. Every other route is closed to strangers."""
    setattr(handler, _PUBLIC, True)
    return handler


def always_up(handler: AnyHandler) -> AnyHandler:
    """Mark a handler that works without the database: health, documentation, the console."""
    setattr(handler, _ALWAYS_UP, True)
    return public(handler)


def refused_under_overload(handler: AnyHandler) -> AnyHandler:
    """Mark a handler that makes work: when the process has too much already, nothing is even read of it."""
    setattr(handler, _SHED, True)
    return handler


def limited_by_address(handler: AnyHandler) -> AnyHandler:
    """Mark a handler that takes passwords or refresh tokens: public, and limited per client address."""
    setattr(handler, _BY_ADDRESS, True)
    return public(handler)


def is_public(handler: Handler) -> bool:
    return hasattr(handler, _PUBLIC)


def is_always_up(handler: Handler) -> bool:
    return hasattr(handler, _ALWAYS_UP)


def is_limited_by_address(handler: Handler) -> bool:
    return hasattr(handler, _BY_ADDRESS)


@web.middleware
async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request an id, and log one line about it: no query string, no headers, no body."""
    given = request.headers.get("X-Request-Id", "")
    request_id = given if _REQUEST_ID.fullmatch(given) else token_hex(8)
    request[keys.REQUEST_ID] = request_id
    started = time.perf_counter()
    status = 499
    try:
        response = await handler(request)
        status = response.status
        if not response.prepared:
            response.headers["X-Request-Id"] = request_id
            response.headers[hdrs.SERVER] = SERVER_NAME
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
    """Turn whatever was raised into the error shape of the contract; nothing internal gets out."""
    try:
        _require_plain_http(request)
        response = await handler(request)
    except Problem as problem:
        response = problem_response(request, problem)
    except web.HTTPException as error:
        response = _translate_http(request, error)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, DatabaseAway, OSError) as error:
        response = _translate_database(request, error)
    except Exception:
        log.exception("request_failed", request_id=request[keys.REQUEST_ID])
        response = problem_response(request, ServerFault())
    if not response.prepared:
        for name, value in SECURE_HEADERS.items():
            response.headers.setdefault(name, value)
        _vary_by_origin(request, response)
    return response


@web.middleware
async def shed(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse new work as cheaply as can be while there is too much of it, so that the rest gets done in time."""
    if hasattr(request.match_info.handler, _SHED):
        request.app[keys.REQUESTS].require_capacity()
    return await handler(request)


@web.middleware
async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Closed unless marked public: verifies the token and puts the principal on the request."""
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
    """Per user for whatever they do, per client address where credentials are tried.

    Creates have a lower limit of their own, which their handler judges, as it may queue what is beyond it.
    """
    principal = request.get(keys.PRINCIPAL)
    verdict = None
    if principal is not None:
        verdict = request.app[keys.READ_LIMITER].check(str(principal.user_id))
    elif hasattr(request.match_info.handler, _BY_ADDRESS):
        settings = request.app[keys.SETTINGS]
        address = client_address(request.headers.getall("X-Forwarded-For", []), request.remote, settings.proxy_networks)
        verdict = request.app[keys.AUTH_LIMITER].check(address)
    if verdict is not None:
        request[keys.RATE_LIMIT] = verdict
        if not verdict.allowed:
            raise RateLimited("Too many requests; slow down.", retry_after_s=verdict.retry_after_s)
    return await handler(request)


@web.middleware
async def show_limits(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Say on every answer, errors included, what is left of the limit that applies."""
    response = await handler(request)
    verdict = request.get(keys.RATE_LIMIT)
    if verdict is not None and not response.prepared:
        response.headers.update(_limit_headers(request, verdict))
    return response


def dress(request: web.Request, response: web.StreamResponse) -> None:
    """Give a response that is sent before the middlewares see it what they would have given it."""
    response.headers["X-Request-Id"] = request[keys.REQUEST_ID]
    response.headers[hdrs.SERVER] = SERVER_NAME
    for name, value in SECURE_HEADERS.items():
        response.headers.setdefault(name, value)
    if (verdict := request.get(keys.RATE_LIMIT)) is not None:
        response.headers.update(_limit_headers(request, verdict))
    _vary_by_origin(request, response)


MIDDLEWARES = (observe, show_limits, translate_errors, shed, authenticate, limit)


def problem_body(problem: Problem, request_id: str) -> dict[str, Any]:
    """The error shape, the same everywhere."""
    body: dict[str, Any] = {
        "error": problem.title,
        "detail": problem.detail,
        "code": problem.code,
        "request_id": request_id,
    }
    if problem.errors:
        body["errors"] = [{"field": error.field, "message": error.message} for error in problem.errors]
    return body


def problem_response(request: web.Request, problem: Problem) -> web.Response:
    status, headers, body = problem.status, problem.headers, problem_body(problem, request[keys.REQUEST_ID])
    if request.path.startswith(GOTRUE_PREFIX) and keys.GOTRUE in request.app:
        wording = problem_wording(problem, request.headers)
        body, headers = wording.body, headers | wording.headers
    elif request.path.startswith(OPENAI_PREFIX):
        refusal = openai.problem_wording(problem)
        status, headers, body = refusal.status, refusal.headers, refusal.body
    response = json_response(body, status=status, headers=headers)
    if not request.content.is_eof() and problem.status in {401, 408, 413, 415, 503}:
        response.force_close()  # do not read a body that was refused
    return response


def _limit_headers(request: web.Request, verdict: RateLimitResult) -> dict[str, str]:
    headers = rate_limit_headers(verdict)
    if request.path.startswith(OPENAI_PREFIX):
        headers |= openai.limit_headers(limit=verdict.limit, remaining=verdict.remaining, reset_s=verdict.reset_s)
    return headers


def _require_plain_http(request: web.Request) -> None:
    """Refuse what aiohttp lets pass: other versions of HTTP, odd framing, a Host that is a URL."""
    coding = request.headers.get(hdrs.TRANSFER_ENCODING)
    if request.version not in {HttpVersion10, HttpVersion11}:
        raise BadSyntax("This is not a valid HTTP/1.1 request: speak HTTP/1.1.")
    if coding is not None and (coding.lower() != "chunked" or request.version != HttpVersion11):
        raise BadSyntax("This is not a valid HTTP/1.1 request: Transfer-Encoding must be chunked.")
    if _NOT_A_HOST.search(request.headers.get(hdrs.HOST, "")):
        raise BadSyntax("This is not a valid HTTP/1.1 request: Host must be a name or address, with or without a port.")
    if request.headers.get(hdrs.EXPECT, "100-continue").lower() != "100-continue":
        raise BadSyntax("Expect: only 100-continue is understood.")


def _translate_http(request: web.Request, error: web.HTTPException) -> web.StreamResponse:
    match error.status:
        case HTTPStatus.NOT_FOUND:
            return problem_response(request, NotFound("There is nothing at this path; see /docs."))
        case HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = error.headers.get(hdrs.ALLOW, "")
            headers: dict[str, str] = {hdrs.ALLOW: allowed}
            return problem_response(request, MethodNotAllowed(f"This path answers to: {allowed}.", headers=headers))
        case status if status < HTTPStatus.BAD_REQUEST:
            return error
        case HTTPStatus.FORBIDDEN if not _is_preflight(request):  # aiohttp-cors knows no other OPTIONS
            return web.Response(status=HTTPStatus.NO_CONTENT, headers={hdrs.ALLOW: _methods(request)})
        case HTTPStatus.FORBIDDEN:  # aiohttp-cors refuses a preflight
            return problem_response(request, Forbidden("This origin, method or header is not allowed across origins."))
        case _:
            return problem_response(request, BadSyntax("The request is not valid HTTP for this path."))


def _translate_database(request: web.Request, error: Exception) -> web.Response:
    fault = Fault.AWAY if isinstance(error, DatabaseAway) else classify(error)
    match fault:
        case Fault.AWAY | Fault.CONTENTION:
            problem: Problem = Unavailable("The database is not available; try again.", retry_after_s=2)
        case Fault.REJECTED:
            log.error("validation_gap", request_id=request[keys.REQUEST_ID], exc_info=error)
            problem = Invalid("A value cannot be stored as it was sent.")
        case Fault.BROKEN:
            log.error("request_failed", request_id=request[keys.REQUEST_ID], exc_info=error)
            problem = ServerFault()
    return problem_response(request, problem)


def _is_preflight(request: web.Request) -> bool:
    return hdrs.ORIGIN in request.headers and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers


def _methods(request: web.Request) -> str:
    """What the path answers to, as in the `Allow` of a 405."""
    resource = request.match_info.route.resource
    return ",".join(sorted(route.method for route in resource or ()))


def _vary_by_origin(request: web.Request, response: web.StreamResponse) -> None:
    """Tell caches that the answer may depend on the origin, and let an allowed one read a 404 or 405.

    Those have no route, which is what aiohttp-cors goes by.
    """
    origins = request.app[keys.SETTINGS].allowed_origins
    if not origins:
        return
    vary = response.headers.get(hdrs.VARY)
    response.headers[hdrs.VARY] = hdrs.ORIGIN if vary is None else f"{vary}, {hdrs.ORIGIN}"
    origin = request.headers.get(hdrs.ORIGIN)
    if request.match_info.http_exception is not None and origin is not None and {origin, "*"} & set(origins):
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
