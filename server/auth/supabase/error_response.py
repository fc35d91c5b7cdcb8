"""Reads error responses of Supabase Auth and its gateway, in all their forms. Pure."""

import re
from dataclasses import dataclass
from typing import Any

import orjson

MAX_TEXT = 400
MAX_REASONS = 8
_CODE = re.compile(r"[a-z][a-z0-9_]{1,63}", re.ASCII)
_ERROR_ID = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)
_UNSPECIFIC = frozenset({"", "invalid_grant", "invalid_request", "access_denied", "server_error", "error"})
"""Codes of the OAuth form. The text says more than they do."""

_CODES_BY_WORDS = (
    ("invalid login credentials", "invalid_credentials"),
    ("email not confirmed", "email_not_confirmed"),
    ("user is banned", "user_banned"),
    ("invalid refresh token", "refresh_token_not_found"),
    ("refresh token is not valid", "refresh_token_not_found"),
    ("already registered", "user_already_exists"),
    ("signups not allowed", "signup_disabled"),
    ("password should", "weak_password"),
    ("rate limit", "over_request_rate_limit"),
    ("for security purposes", "over_email_send_rate_limit"),
    ("email address", "validation_failed"),
    ("requires a valid password", "validation_failed"),
    ("longer than 72", "validation_failed"),
)
"""For old servers that send no error codes."""


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """`code` is empty if there is none, as in errors of the gateway."""

    status: int
    code: str = ""
    text: str = ""
    """The server's text, on one line and truncated. Callers see it only for codes that concern them."""
    reasons: tuple[str, ...] = ()
    """Why a password is weak: `length`, `characters`, `pwned`."""
    error_id: str = ""
    """Identifies the error in the project's logs."""


def read_error_response(status: int, body: bytes | None) -> ErrorResponse:
    """Never raises: HTML, an empty body and JSON of any shape give a response without a code."""
    try:
        data = orjson.loads(body or b"")
    except orjson.JSONDecodeError:
        return ErrorResponse(status)
    if not isinstance(data, dict):
        return ErrorResponse(status)
    text = _first_text(data, "msg", "message", "error_description", "error")
    return ErrorResponse(status, _code(data, text), text, _reasons(data.get("weak_password")), _error_id(data))


def _code(data: dict[str, Any], text: str) -> str:
    """`code` of the newer form, `error_code` of the older, `error` of OAuth's form; else derived from the text."""
    for name in ("code", "error_code", "error"):
        value = data.get(name)
        if isinstance(value, str) and _CODE.fullmatch(value) and value not in _UNSPECIFIC:
            return value
    words = text.lower()
    return next((code for part, code in _CODES_BY_WORDS if part in words), "")


def _first_text(data: dict[str, Any], *names: str) -> str:
    for name in names:
        value = data.get(name)
        if isinstance(value, str) and (line := _one_line(value)):
            return line
    return ""


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * MAX_TEXT]).split())[:MAX_TEXT]


def _reasons(weak_password: object) -> tuple[str, ...]:
    reasons = weak_password.get("reasons") if isinstance(weak_password, dict) else None
    if not isinstance(reasons, list):
        return ()
    return tuple(reason for reason in reasons[:MAX_REASONS] if isinstance(reason, str) and _CODE.fullmatch(reason))


def _error_id(data: dict[str, Any]) -> str:
    value = data.get("error_id")
    return value if isinstance(value, str) and _ERROR_ID.fullmatch(value) else ""
