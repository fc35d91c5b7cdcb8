"""How OpenAI words a refusal: `{"error": {message, type, param, code}}`."""

from dataclasses import dataclass
from typing import Any

from server.encoding import dumps
from server.errors import Problem

_INVALID = 400
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    502: "api_error",
    503: "server_error",
    504: "api_error",
}
"""The rest are `invalid_request_error`."""
_CODES = {
    401: "invalid_api_key",
    404: "not_found",
    409: "cancelled",
    429: "rate_limit_exceeded",
    502: "model_error",
    503: "unavailable",
    504: "model_timeout",
}
_IN_VAIN = frozenset({409, 502, 504})
"""What was tried for as long as it made sense, or is not wanted any more: clients need not repeat it by themselves."""


@dataclass(frozen=True, slots=True)
class Wording:
    """A refusal as it goes out."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]


def problem_wording(problem: Problem) -> Wording:
    """A problem of the server in OpenAI's terms; what is wrong with a body is 400 there."""
    status = _INVALID if problem.status == 422 else problem.status  # noqa: PLR2004 - the one that OpenAI does not use
    headers = {"x-should-retry": "false"} if status in _IN_VAIN else {}
    return Wording(status, _body(problem, status), problem.headers | headers)


def error_event(problem: Problem) -> bytes:
    """What is said in a stream that has begun: clients raise it. Nothing follows, not even `[DONE]`."""
    return b"data: %b\n\n" % dumps(problem_wording(problem).body)


def _body(problem: Problem, status: int) -> dict[str, Any]:
    param = next((error.field for error in problem.errors if not error.field.startswith("(")), None)
    code = _CODES.get(status)
    if param == "model" and code == "not_found":
        code = "model_not_found"
    return {
        "error": {
            "message": problem.detail,
            "type": _TYPES.get(status, "invalid_request_error"),
            "param": param,
            "code": code,
        }
    }


def limit_headers(*, limit: int, remaining: int, reset_s: int) -> dict[str, str]:
    """What is left of a rate limit, in the headers that OpenAI sends."""
    return {
        "x-ratelimit-limit-requests": str(limit),
        "x-ratelimit-remaining-requests": str(remaining),
        "x-ratelimit-reset-requests": f"{reset_s}s",
    }
