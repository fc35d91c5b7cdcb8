"""Renders errors in the forms of Supabase Auth: the newer one if the client asks for its version. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from server.errors import Problem

API_VERSION = "X-Supabase-Api-Version"
NEWER_FORM = "2024-01-01"
ERROR_CODE = "X-Sb-Error-Code"

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
"""Codes for a `Problem`, by its status."""


class GoTrueError(Exception):
    """An error with a code of GoTrue (internal/api/apierrors/errorcode.go) and its text."""

    def __init__(self, status: int, code: str, message: str, *, reasons: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.reasons = reasons


@dataclass(frozen=True, slots=True)
class ErrorForm:
    status: int
    body: dict[str, Any]
    headers: dict[str, str]


def render_error(error: GoTrueError, *, version: str | None) -> ErrorForm:
    """The form that a client of this API version expects."""
    weak = {"weak_password": {"reasons": list(error.reasons)}} if error.reasons else {}
    headers = {ERROR_CODE: error.code}
    if version == NEWER_FORM:
        body = {"code": error.code, "message": error.message, **weak}
        return ErrorForm(error.status, body, headers | {API_VERSION: NEWER_FORM})
    return ErrorForm(
        error.status, {"code": error.status, "error_code": error.code, "msg": error.message, **weak}, headers
    )


def render_problem(problem: Problem, headers: Mapping[str, str]) -> ErrorForm:
    """A `Problem` as an error of GoTrue."""
    is_server_fault = problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    code = _CODES.get(problem.status, "unexpected_failure" if is_server_fault else "validation_failed")
    return render_error(GoTrueError(problem.status, code, problem.detail), version=headers.get(API_VERSION))
