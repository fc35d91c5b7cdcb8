"""Errors in OpenAI's form: `{"error": {message, type, param, code}}`."""

from typing import Any

from server.encoding import dumps_line
from server.errors import ErrorResponse, Problem

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
"""All other statuses are `invalid_request_error`."""
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
"""The server has retried already, or the request was cancelled: clients must not retry on their own."""


def error_response(problem: Problem) -> ErrorResponse:
    """A problem in OpenAI's form, where an invalid body is 400."""
    status = _INVALID if problem.status == 422 else problem.status  # noqa: PLR2004 - the one that OpenAI does not use
    headers = {"x-should-retry": "false"} if status in _IN_VAIN else {}
    return ErrorResponse(status, _body(problem, status), problem.headers | headers)


def error_event(problem: Problem) -> bytes:
    """The last event of a stream that fails after its first byte: clients raise it. No `[DONE]` follows."""
    return b"data: %b\n\n" % dumps_line(error_response(problem).body)


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
            "code": problem.reason or code,
        }
    }


def limit_headers(*, limit: int, remaining: int, reset_s: int) -> dict[str, str]:
    """The state of a rate limit, in OpenAI's headers."""
    return {
        "x-ratelimit-limit-requests": str(limit),
        "x-ratelimit-remaining-requests": str(remaining),
        "x-ratelimit-reset-requests": f"{reset_s}s",
    }
