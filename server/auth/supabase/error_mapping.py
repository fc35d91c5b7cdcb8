"""Maps an error of Supabase Auth to a `Problem` for the caller, and to a fix for the operator where one helps. Pure."""

import re
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus

from server.auth.accounts import SUSPENDED
from server.auth.supabase.error_response import ErrorResponse
from server.auth.supabase.project_keys import ANON_KEY, SERVICE_KEY
from server.errors import Conflict, FieldError, Forbidden, Invalid, Problem, RateLimited, Unauthenticated, Unavailable

UNAVAILABLE = "supabase_auth_away"
MISCONFIGURED = "supabase_auth_misconfigured"
REFUSED = "supabase_auth_refused"
UNAVAILABLE_RETRY_S = 5.0
MISCONFIGURED_RETRY_S = 60.0
_PAUSED = 540

_MAX_RETRY_S = 3600.0
_RETRY_S = {"over_request_rate_limit": 10.0}
"""Supabase sends no Retry-After. Its token buckets refill by one token every 2 or 10 seconds."""
_OTHER_RETRY_S = 60.0
_AFTER = re.compile(r"after (\d{1,6}) second", re.ASCII)

_WRONG_CREDENTIALS = "Invalid e-mail or password."
_LACKS = {
    "length": "is too short",
    "characters": "lacks characters of a kind that is required",
    "pwned": "is known from a leak of passwords; choose another",
}
_URL_FIX = (
    "SUPABASE_URL is not the address of a Supabase project: set it to one such as https://abc.supabase.co, "
    "with https and without a path."
)
_FIXES = {
    "captcha_failed": "The project requires a captcha, which calls through this server cannot solve: switch it off "
    "(AUTH_RATE_LIMIT_PER_MINUTE limits sign-ups and sign-ins here).",
    "email_provider_disabled": "Signing in by e-mail and password is switched off in the project: switch it on.",
    "email_address_not_authorized": "The project's default mailer sends only to its team: set up SMTP there.",
}
"""Faults that only the operator can fix."""
_ENDED = frozenset({
    "bad_jwt", "no_authorization", "user_not_found", "session_not_found", "session_expired",
})  # fmt: skip
_NO_REFRESH = _ENDED | {"refresh_token_not_found", "refresh_token_already_used", "validation_failed"}
_WRONG = frozenset({"invalid_credentials", "validation_failed", "user_not_found", "email_address_invalid"})


class Operation(StrEnum):
    SIGN_UP = "sign_up"
    SIGN_IN = "sign_in"
    REFRESH = "refresh"
    RECOVER = "recover"
    USER = "user"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class MappedError:
    """`problem` is for the caller. `event` and `fix` are for the log; `event` is empty if nothing is to be logged."""

    problem: Problem
    event: str = ""
    fix: str = ""


def map_error(
    response: ErrorResponse, operation: Operation, *, key_name: str = ANON_KEY, retry_after: str = ""
) -> MappedError:
    """The meaning of an error response to an operation. The problem contains no internals of Supabase."""
    code, status = response.code, response.status
    if status == HTTPStatus.TOO_MANY_REQUESTS or code.startswith("over_"):
        return MappedError(_limited(response, operation, retry_after))
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return unavailable(_outage_fix(response))
    if fix := _settings_fix(response, operation, key_name):
        return misconfigured(fix)
    return _for_caller(response, operation)


def unavailable(fix: str = "") -> MappedError:
    """Supabase Auth does not answer, or answers with a server error."""
    problem = Unavailable("The account service is not available; try again.", retry_after_s=UNAVAILABLE_RETRY_S)
    return MappedError(problem, UNAVAILABLE, fix)


def misconfigured(fix: str = _URL_FIX) -> MappedError:
    """The operator must correct the settings. The default `fix` is for an answer that is not from Supabase Auth."""
    problem = Unavailable(
        "Accounts do not work until this server's operator has corrected its settings.",
        retry_after_s=MISCONFIGURED_RETRY_S,
    )
    return MappedError(problem, MISCONFIGURED, fix)


def _limited(response: ErrorResponse, operation: Operation, retry_after: str) -> Problem:
    """503 for a refresh: clients retry after it, and sign their user out after a 429."""
    seconds = _RETRY_S.get(response.code, _OTHER_RETRY_S)
    if match := _AFTER.search(response.text):
        seconds = float(match[1])
    elif retry_after.isascii() and retry_after.isdigit():
        seconds = float(retry_after[:6])
    words = "Too many e-mails were requested" if "email" in response.code else "Too many calls to the account service"
    kind = Unavailable if operation is Operation.REFRESH else RateLimited
    return kind(f"{words}; try again later.", retry_after_s=min(seconds, _MAX_RETRY_S))


def _outage_fix(response: ErrorResponse) -> str:
    if response.status == _PAUSED:
        return "The project is paused: restore it in the Supabase dashboard."
    return f"Supabase Auth answers with status {response.status}: read the project's Auth logs."


def _settings_fix(response: ErrorResponse, operation: Operation, key_name: str) -> str:
    """The fix for the operator; empty if the fault is not one of the settings."""
    status, code, words = response.status, response.code, response.text.lower()
    if code in _FIXES:
        return _FIXES[code]
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        if "api key" in words or not code:
            return f"The project at SUPABASE_URL rejects {key_name}: copy it again from its API settings."
        if operation is Operation.DELETE and code != "user_not_found":
            return f"{SERVICE_KEY} is not a service role (secret) key of the project: copy it from its API settings."
    is_elsewhere = status < HTTPStatus.BAD_REQUEST or status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}
    return _URL_FIX if is_elsewhere and not code else ""


def _for_caller(response: ErrorResponse, operation: Operation) -> MappedError:  # noqa: C901, PLR0911 - a table
    match operation, response.code:
        case Operation.REFRESH, code if code in _NO_REFRESH:
            return MappedError(Unauthenticated("The refresh token is not valid; sign in again."))
        case Operation.REFRESH, "conflict":
            return MappedError(Unavailable("Another call uses this refresh token now; try again.", retry_after_s=1))
        case Operation.USER | Operation.DELETE, "bad_jwt" if "expired" not in response.text:
            fix = "Supabase Auth rejects a token that is valid here: set SUPABASE_JWT_SECRET to the project's secret."
            return MappedError(Unauthenticated(), MISCONFIGURED, fix)
        case Operation.USER | Operation.DELETE, code if code in _ENDED or code == "user_banned":
            return MappedError(Unauthenticated())
        case _, "email_not_confirmed":
            return MappedError(Forbidden("Confirm your e-mail address first: follow the link that was sent to it."))
        case _, "user_banned":
            return MappedError(Forbidden(SUSPENDED))
        case Operation.SIGN_IN, code if code in _WRONG:
            return MappedError(Unauthenticated(_WRONG_CREDENTIALS))
        case _, "signup_disabled":
            return MappedError(Forbidden("This server accepts no sign-ups: its operator has switched them off."))
        case _, "user_already_exists" | "email_exists":
            return MappedError(Conflict("There is an account with this e-mail already; sign in instead."))
        case _, "weak_password":
            return MappedError(_weak(response))
        case _, "validation_failed" | "email_address_invalid":
            return MappedError(_invalid(response))
        case _, code:
            named = f" ({code})" if code else ""
            return MappedError(
                Forbidden(f"The account service refuses this{named}."),
                REFUSED,
                f"Supabase Auth answers {response.status}{named} to {operation}: read the project's Auth logs.",
            )


def _weak(response: ErrorResponse) -> Problem:
    """With Supabase's text, which states the project's password rules, and a message for each reason."""
    text = response.text or "The password is too weak."
    messages = [_LACKS.get(reason, f"is too weak ({reason})") for reason in response.reasons] or ["is too weak"]
    return Invalid(f"password: {text}", errors=[FieldError("password", message) for message in messages])


def _invalid(response: ErrorResponse) -> Problem:
    text = response.text or "The account service does not accept this."
    words = text.lower()
    field = next((name for name in ("password", "email") if name in words), "")
    return Invalid(text, errors=[FieldError(field, text)] if field else [])
