"""The result of a final model request for OpenAI's clients: a response or an error."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any
from uuid import UUID

from server.errors import (
    BodyTooLarge,
    Code,
    Conflict,
    FieldError,
    Invalid,
    ModelFailed,
    ModelTooSlow,
    NotFound,
    Problem,
    RateLimited,
    Unavailable,
)
from server.model_request import Status

RETRY_AFTER_S = 5.0
_TIMELY = timedelta(seconds=1)
"""A call ends shortly before the deadline of its request."""


def problem_of(outcome: Mapping[str, Any]) -> Problem | None:
    """The error of a failed request; None for a completed one. `outcome` is the object of a final request."""
    match outcome["status"]:
        case Status.COMPLETED:
            return None
        case Status.CANCELLED:
            return Conflict("The request was cancelled before it ended.")
    message = outcome["error_msg"]
    match outcome["error_code"]:
        case Code.VALIDATION_ERROR:
            return Invalid(message)
        case Code.SERVER_ERROR:
            return Unavailable(message, retry_after_s=RETRY_AFTER_S)
    refusal = _refusal_of(message, outcome.get("upstream_error") or {})
    return refusal or (ModelTooSlow(message) if _is_overdue(outcome) else ModelFailed(message))


def _refusal_of(message: str, said: Mapping[str, Any]) -> Problem | None:
    """The provider's own refusal, which a client can act on. None for outages, and for what the operator must do."""
    code, param = said.get("code"), said.get("param")
    errors = [FieldError(param, message)] if param else []
    match said.get("status"):
        case HTTPStatus.BAD_REQUEST:
            return Invalid(message, errors=errors, reason=code)
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return BodyTooLarge(message, errors=errors, reason=code)
        case HTTPStatus.NOT_FOUND:
            return NotFound(message, errors=[FieldError("model", message)])
        case HTTPStatus.TOO_MANY_REQUESTS:
            return RateLimited(message, retry_after_s=said.get("retry_after_s", RETRY_AFTER_S))
    return None


def _is_overdue(outcome: Mapping[str, Any]) -> bool:
    completed_at, deadline_at = (datetime.fromisoformat(outcome[name]) for name in ("completed_at", "deadline_at"))
    return completed_at >= deadline_at - _TIMELY


def created_of(request_id: UUID) -> int:
    """The Unix time of a request's creation, from its id (RFC 9562, 5.7)."""
    return (request_id.int >> 80) // 1000


def usage_of(outcome: Mapping[str, Any]) -> dict[str, Any] | None:
    """None where upstream did not report all counts."""
    used, generated = outcome["token_used"], outcome["token_count"]
    if used is None or generated is None:
        return None
    counts = {"prompt_tokens": used - generated, "completion_tokens": generated, "total_tokens": used}
    return {**(outcome.get("usage") or {}), **counts}
