"""What a refusal means: a `Problem` for the caller, and for the operator what to do where it is theirs to do. Pure."""

import re
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus

from server.auth.supabase.project_keys import ANON_KEY, SERVICE_KEY
from server.auth.supabase.refusals import Refusal
from server.errors import Conflict, FieldError, Forbidden, Invalid, Problem, RateLimited, Unauthenticated, Unavailable

AWAY = "supabase_auth_away"
MISCONFIGURED = "supabase_auth_misconfigured"
REFUSED = "supabase_auth_refused"
AWAY_RETRY_S = 5.0
MISCONFIGURED_RETRY_S = 60.0
_PAUSED = 540

_MAX_RETRY_S = 3600.0
_RETRY_S = {"over_request_rate_limit": 10.0}
"""A bucket of theirs gets one back every 2 or 10 seconds; they send no Retry-After."""
_OTHER_RETRY_S = 60.0
_AFTER = re.compile(r"after (\d{1,6}) second", re.ASCII)

_WRONG_CREDENTIALS = "Invalid e-mail or password."
_LACKS = {
    "length": "is too short",
    "characters": "lacks characters of a kind that is required",
    "pwned": "is known from a leak of passwords; choose another",
}
_URL_FIX = (
    "SUPABASE_URL does not lead to Supabase Auth: set it to the project's address, such as https://abc.supabase.co, "
    "with https and without a path."
)
_FIXES = {
    "captcha_failed": "The project asks for a captcha, which calls through this server cannot solve: switch it off "
    "(AUTH_RATE_LIMIT_PER_MINUTE limits sign-ups and sign-ins here).",
    "email_provider_disabled": "Signing in by e-mail and password is switched off in the project: switch it on.",
    "email_address_not_authorized": "The project's own mailer writes to its team only: set up SMTP there.",
}
"""Codes that no caller can do anything about."""
_ENDED = frozenset({
    "bad_jwt", "no_authorization", "user_not_found", "session_not_found", "session_expired", "user_banned",
})  # fmt: skip
_NO_REFRESH = _ENDED | {"refresh_token_not_found", "refresh_token_already_used", "validation_failed"}
_WRONG = frozenset({"invalid_credentials", "validation_failed", "user_not_found", "email_address_invalid"})


class Step(StrEnum):
    """What was asked for."""

    SIGN_UP = "sign_up"
    SIGN_IN = "sign_in"
    REFRESH = "refresh"
    RECOVER = "recover"
    USER = "user"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`event` is for the log, where there is something to say to the operator; `fix` is what to do."""

    problem: Problem
    event: str = ""
    fix: str = ""


def judge(refusal: Refusal, step: Step, *, key_name: str = ANON_KEY, retry_after: str = "") -> Verdict:
    """The meaning of a refusal in answer to a step. Nothing internal of theirs is in the problem."""
    code, status = refusal.code, refusal.status
    if status == HTTPStatus.TOO_MANY_REQUESTS or code.startswith("over_"):
        return Verdict(_limited(refusal, retry_after))
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return away(_outage_fix(refusal))
    if fix := _settings_fix(refusal, step, key_name):
        return misconfigured(fix)
    return _for_caller(refusal, step)


def away(fix: str = "") -> Verdict:
    """Nobody answers, or only to say that something is broken there."""
    problem = Unavailable("The account service is not available; try again.", retry_after_s=AWAY_RETRY_S)
    return Verdict(problem, AWAY, fix)


def misconfigured(fix: str = _URL_FIX) -> Verdict:
    """The operator has to do something first; without a `fix`, what answered is not Supabase Auth."""
    problem = Unavailable(
        "Accounts do not work until this server's operator has corrected its settings.",
        retry_after_s=MISCONFIGURED_RETRY_S,
    )
    return Verdict(problem, MISCONFIGURED, fix)


def _limited(refusal: Refusal, retry_after: str) -> Problem:
    seconds = _RETRY_S.get(refusal.code, _OTHER_RETRY_S)
    if match := _AFTER.search(refusal.text):
        seconds = float(match[1])
    elif retry_after.isascii() and retry_after.isdigit():
        seconds = float(retry_after[:6])
    words = "Too many e-mails were asked for" if "email" in refusal.code else "Too many calls to the account service"
    return RateLimited(f"{words}; try again later.", retry_after_s=min(seconds, _MAX_RETRY_S))


def _outage_fix(refusal: Refusal) -> str:
    if refusal.status == _PAUSED:
        return "The project is paused: restore it in the Supabase dashboard."
    return f"Supabase Auth answers with status {refusal.status}: look into the project's Auth logs."


def _settings_fix(refusal: Refusal, step: Step, key_name: str) -> str:
    """What the operator has to do about it; empty where the caller has."""
    status, code, words = refusal.status, refusal.code, refusal.text.lower()
    if code in _FIXES:
        return _FIXES[code]
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        if "api key" in words or not code:
            return f"{key_name} is not taken by the project at SUPABASE_URL: copy it again from its API settings."
        if step is Step.DELETE and code != "user_not_found":
            return f"{SERVICE_KEY} is not a service role (secret) key of the project: copy it from its API settings."
    is_elsewhere = status < HTTPStatus.BAD_REQUEST or status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}
    return _URL_FIX if is_elsewhere and not code else ""


def _for_caller(refusal: Refusal, step: Step) -> Verdict:  # noqa: C901, PLR0911 - a table
    match step, refusal.code:
        case Step.REFRESH, code if code in _NO_REFRESH:
            return Verdict(Unauthenticated("The refresh token is not valid; sign in again."))
        case Step.REFRESH, "conflict":
            return Verdict(Unavailable("This refresh token is being traded already; try again.", retry_after_s=1))
        case Step.USER | Step.DELETE, "bad_jwt" if "expired" not in refusal.text:
            fix = "Supabase Auth refuses a token that is valid here: SUPABASE_JWT_SECRET must be that of SUPABASE_URL."
            return Verdict(Unauthenticated(), MISCONFIGURED, fix)
        case Step.USER | Step.DELETE, code if code in _ENDED:
            return Verdict(Unauthenticated())
        case _, "email_not_confirmed":
            return Verdict(Forbidden("Confirm your e-mail address first: follow the link that was sent to it."))
        case _, "user_banned":
            return Verdict(Forbidden("This account is suspended: ask the server's operator."))
        case Step.SIGN_IN, code if code in _WRONG:
            return Verdict(Unauthenticated(_WRONG_CREDENTIALS))
        case _, "signup_disabled":
            return Verdict(Forbidden("This server takes no new accounts: its operator has switched sign-ups off."))
        case _, "user_already_exists" | "email_exists":
            return Verdict(Conflict("There is an account with this e-mail already; sign in instead."))
        case _, "weak_password":
            return Verdict(_weak(refusal))
        case _, "validation_failed" | "email_address_invalid":
            return Verdict(_invalid(refusal))
        case _, code:
            named = f" ({code})" if code else ""
            return Verdict(
                Forbidden(f"The account service refuses this{named}."),
                REFUSED,
                f"Supabase Auth answers {refusal.status}{named} to {step}: look into the project's Auth logs.",
            )


def _weak(refusal: Refusal) -> Problem:
    """Their words, which say what the project wants of a password, and each reason by its field."""
    text = refusal.text or "The password is too weak."
    messages = [_LACKS.get(reason, f"is too weak ({reason})") for reason in refusal.reasons] or ["is too weak"]
    return Invalid(f"password: {text}", errors=[FieldError("password", message) for message in messages])


def _invalid(refusal: Refusal) -> Problem:
    text = refusal.text or "The account service does not take this."
    words = text.lower()
    field = next((name for name in ("password", "email") if name in words), "")
    return Invalid(text, errors=[FieldError(field, text)] if field else [])
