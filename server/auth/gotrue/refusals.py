"""How Supabase Auth words a refusal: in the form that a client names by its date, or the one before. Pure."""

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
"""For errors that are not of accounts."""


class GoTrueRefusal(Exception):
    """An error with one of GoTrue's codes (its internal/api/apierrors/errorcode.go) and its words."""

    def __init__(self, status: int, code: str, message: str, *, reasons: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.reasons = reasons


@dataclass(frozen=True, slots=True)
class Wording:
    """A refusal as it goes out."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]


def word(refusal: GoTrueRefusal, *, version: str | None) -> Wording:
    """In the form that a client of this API version expects."""
    weak = {"weak_password": {"reasons": list(refusal.reasons)}} if refusal.reasons else {}
    headers = {ERROR_CODE: refusal.code}
    if version == NEWER_FORM:
        body = {"code": refusal.code, "message": refusal.message, **weak}
        return Wording(refusal.status, body, headers | {API_VERSION: NEWER_FORM})
    return Wording(
        refusal.status, {"code": refusal.status, "error_code": refusal.code, "msg": refusal.message, **weak}, headers
    )


def refusal_of(problem: Problem) -> GoTrueRefusal:
    """A problem of the server in GoTrue's terms."""
    is_ours = problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    code = _CODES.get(problem.status, "unexpected_failure" if is_ours else "validation_failed")
    return GoTrueRefusal(problem.status, code, problem.detail)


def problem_wording(problem: Problem, headers: Mapping[str, str]) -> Wording:
    """For whatever goes wrong before a handler is reached, and for what it does not word itself."""
    return word(refusal_of(problem), version=headers.get(API_VERSION))
