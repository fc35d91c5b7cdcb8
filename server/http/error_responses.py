"""Errors as responses: each API has its own form, chosen by the path of the request."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple

import structlog
from aiohttp import hdrs, web

from server.auth.gotrue import error_form as gotrue
from server.errors import (
    BadSyntax,
    ErrorResponse,
    Forbidden,
    Invalid,
    MethodNotAllowed,
    NotFound,
    Problem,
    ServerFault,
    Unavailable,
)
from server.http import keys
from server.http.responses import json_response
from server.openai import PREFIX as OPENAI_PREFIX
from server.openai import refusals as openai
from server.storage.database import DatabaseAway
from server.storage.faults import Fault, classify

_UNREAD = frozenset({401, 408, 413, 415, 503})
"""After these errors the rest of a body is not read: the connection closes."""

log = structlog.get_logger(__name__)


class ErrorForm(NamedTuple):
    """The form of errors below a path prefix; with `needs`, only in applications that have this key."""

    prefix: str
    render: Callable[[web.Request, Problem], ErrorResponse]
    needs: web.AppKey[Any] | None = None


def problem_body(problem: Problem, request_id: str) -> dict[str, Any]:
    """The body of an error of `/api`."""
    body: dict[str, Any] = {
        "error": problem.title,
        "detail": problem.detail,
        "code": problem.code,
        "request_id": request_id,
    }
    if problem.errors:
        body["errors"] = [{"field": error.field, "message": error.message} for error in problem.errors]
    return body


def _as_ours(request: web.Request, problem: Problem) -> ErrorResponse:
    return ErrorResponse(problem.status, problem_body(problem, request[keys.REQUEST_ID]), problem.headers)


FORMS = (
    ErrorForm(OPENAI_PREFIX, lambda _, problem: openai.error_response(problem)),
    ErrorForm(gotrue.PREFIX, lambda request, problem: gotrue.error_response(problem, request.headers), keys.GOTRUE),
    ErrorForm("", _as_ours),
)
"""The first prefix that fits applies. The path of a target such as `*` or `http://host` does not begin with a slash."""


def problem_response(request: web.Request, problem: Problem) -> web.Response:
    """The response to a problem, in the form of the API that was called."""
    request[keys.ERROR_CODE] = problem.code
    path, app = request.path, request.app
    form = next(form for form in FORMS if path.startswith(form.prefix) and (form.needs is None or form.needs in app))
    error = form.render(request, problem)
    response = json_response(error.body, status=error.status, headers=error.headers)
    if not request.content.is_eof() and problem.status in _UNREAD:
        response.force_close()
    return response


def http_response(request: web.Request, error: web.HTTPException) -> web.StreamResponse:
    """The response to an exception of aiohttp or aiohttp-cors."""
    match error.status:
        case HTTPStatus.NOT_FOUND:
            hint = openai.hint_for(request.path)
            return problem_response(request, NotFound(hint or "There is nothing at this path; see /docs."))
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


def database_problem(error: Exception, *, request_id: str) -> Problem:
    """The problem that an error of the database is to the caller; faults of ours are logged."""
    match Fault.AWAY if isinstance(error, DatabaseAway) else classify(error):
        case Fault.AWAY | Fault.CONTENTION:
            return Unavailable("The database is not available; try again.", retry_after_s=2)
        case Fault.REJECTED:
            log.error("validation_gap", request_id=request_id, exc_info=error)
            return Invalid("A value cannot be stored as it was sent.")
        case Fault.BROKEN:
            log.error("request_failed", request_id=request_id, exc_info=error)
            return ServerFault()


def _is_preflight(request: web.Request) -> bool:
    return hdrs.ORIGIN in request.headers and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers


def _methods(request: web.Request) -> str:
    """The methods of the path, as in the `Allow` of a 405."""
    resource = request.match_info.route.resource
    return ",".join(sorted(route.method for route in resource or ()))
