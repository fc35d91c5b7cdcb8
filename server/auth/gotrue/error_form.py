"""Errors in the form of Supabase Auth: the one of the API version that the client names, or the older one. Pure."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from server.auth.tokens import bearer_token
from server.errors import ErrorResponse, Problem, Unauthenticated

PREFIX = "/auth/v1/"
API_VERSION = "X-Supabase-Api-Version"
NEWER_FORM = "2024-01-01"
ERROR_CODE = "X-Sb-Error-Code"

_PROJECT_KEY = "sb_"
_CODES = {
    400: "bad_json",
    404: "not_found",
    405: "not_found",
    408: "request_timeout",
    413: "request_entity_too_large",
    415: "bad_json",
    422: "validation_failed",
    429: "over_request_rate_limit",
}
"""For errors that do not concern accounts."""


class GoTrueError(Problem):
    """An error with one of GoTrue's codes (its internal/api/apierrors/errorcode.go) and its message."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        reasons: tuple[str, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, headers=headers)
        self.status = status
        self.error_code = code
        self.reasons = reasons


def error_response(problem: Problem, headers: Mapping[str, str]) -> ErrorResponse:
    """A problem in the form that the client expects; `headers` are those of its request."""
    error = problem if isinstance(problem, GoTrueError) else _error_of(problem, headers)
    weak: dict[str, Any] = {"weak_password": {"reasons": list(error.reasons)}} if error.reasons else {}
    given = error.headers | {ERROR_CODE: error.error_code}
    if headers.get(API_VERSION) == NEWER_FORM:
        body = {"code": error.error_code, "message": error.detail, **weak}
        return ErrorResponse(error.status, body, given | {API_VERSION: NEWER_FORM})
    body = {"code": error.status, "error_code": error.error_code, "msg": error.detail, **weak}
    return ErrorResponse(error.status, body, given)


def _error_of(problem: Problem, headers: Mapping[str, str]) -> GoTrueError:
    if isinstance(problem, Unauthenticated):
        return _session_ended() if problem.is_revoked else _unauthenticated(headers)
    is_ours = problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    code = _CODES.get(problem.status, "unexpected_failure" if is_ours else "validation_failed")
    return GoTrueError(problem.status, code, problem.detail, headers=problem.headers)


def _session_ended() -> GoTrueError:
    return GoTrueError(403, "session_not_found", "Session from session_id claim in JWT does not exist")


def _unauthenticated(headers: Mapping[str, str]) -> GoTrueError:
    """supabase-js sends its project key as the bearer token while no user is signed in: that counts as no token."""
    try:
        token = bearer_token([headers.get("Authorization", "")])
    except Unauthenticated:
        token = ""
    if not token or token.startswith(_PROJECT_KEY) or token == headers.get("apikey"):
        return GoTrueError(401, "no_authorization", "This endpoint requires a valid Bearer token")
    return GoTrueError(403, "bad_jwt", "invalid JWT: unable to parse or verify signature")
