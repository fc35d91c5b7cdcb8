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


class GoTrueRefusal(Problem):
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
    refusal = problem if isinstance(problem, GoTrueRefusal) else _refusal_of(problem, headers)
    weak: dict[str, Any] = {"weak_password": {"reasons": list(refusal.reasons)}} if refusal.reasons else {}
    given = refusal.headers | {ERROR_CODE: refusal.error_code}
    if headers.get(API_VERSION) == NEWER_FORM:
        body = {"code": refusal.error_code, "message": refusal.detail, **weak}
        return ErrorResponse(refusal.status, body, given | {API_VERSION: NEWER_FORM})
    body = {"code": refusal.status, "error_code": refusal.error_code, "msg": refusal.detail, **weak}
    return ErrorResponse(refusal.status, body, given)


def _refusal_of(problem: Problem, headers: Mapping[str, str]) -> GoTrueRefusal:
    if isinstance(problem, Unauthenticated):
        return _unauthenticated(headers)
    is_ours = problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    code = _CODES.get(problem.status, "unexpected_failure" if is_ours else "validation_failed")
    return GoTrueRefusal(problem.status, code, problem.detail, headers=problem.headers)


def _unauthenticated(headers: Mapping[str, str]) -> GoTrueRefusal:
    """supabase-js sends its project key as the bearer token while no user is signed in: that counts as no token."""
    try:
        token = bearer_token([headers.get("Authorization", "")])
    except Unauthenticated:
        token = ""
    if not token or token.startswith(_PROJECT_KEY) or token == headers.get("apikey"):
        return GoTrueRefusal(401, "no_authorization", "This endpoint requires a valid Bearer token")
    return GoTrueRefusal(403, "bad_jwt", "invalid JWT: unable to parse or verify signature")
