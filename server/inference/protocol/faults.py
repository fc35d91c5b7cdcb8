"""Error answers: one classification for all shapes of body. Statuses come from recordings."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, NamedTuple

from server.errors import Code
from server.inference.events import GenerationFailed
from server.inference.protocol.error_documents import kinds_of, name_of, places_of, read_document, words_of
from server.inference.protocol.texts import to_words
from server.model_request import Usage

MAX_RETRY_AFTER_S = 600.0
"""A longer pause than the default deadline has no use; values up to years were seen elsewhere."""

TRANSIENT = frozenset({408, 424, 425, 429, 498, 499, 500, 502, 503, 504, *range(506, 600)})
"""498 and 499 are Groq's: no capacity, and a call that it gave up."""
_WITH_RETRY_AFTER = frozenset({429, *range(500, 600)})
"""The header is ignored for other statuses: Together sends it with successes."""
_MAX_RETRIES = {424: 1, 500: 2, 504: 1}
MODEL_GONE = frozenset({404, 410})
_REDIRECTS = range(300, 400)
_OF_REQUESTS = frozenset({400, 403, 422})
_NOT_OF_THE_REQUEST = TRANSIENT | {401, 402, 403, 405, 407}
"""Statuses below 500 that do not refuse the request itself: outages, and faults that the operator must correct."""
CONTENT_FILTER = "content_filter"
_CONTENT_KINDS = re.compile(r"content_?(?:filter|policy|moderation)|moderation|data_?inspection|responsible_?ai")
_CONTENT_WORDS = re.compile(r"requires moderation|violates (?:our )?(?:usage|content)|content (?:policy|filter)")
"""How providers refuse the content of a request, some of them with 403 (OpenRouter, xAI)."""
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,63}", re.ASCII)
_PARAM = re.compile(r"[A-Za-z_][A-Za-z0-9_.\[\]-]{0,99}", re.ASCII)
_OF_ANSWERS = frozenset(
    {"choices", "generated_text", "token", "data", "output", "outputs", "text", "images", "image", "audio", "result"}
)
"""Fields that no error has: a document with one of them is an answer."""
_SIGNS = frozenset({"errors", "base_resp", "detail", "message", "msg", "error_msg"})


class _Meaning(NamedTuple):
    """The status that errors of these kinds, or with these words, should have had in place of one of `under`."""

    status: int
    under: frozenset[int]
    kinds: frozenset[str]
    words: re.Pattern[str]

    def fits(self, status: int, words: str, kinds: list[str]) -> bool:
        return status in self.under and (not self.kinds.isdisjoint(kinds) or self.words.search(words) is not None)


_MEANINGS = (
    _Meaning(
        404,
        _OF_REQUESTS,
        frozenset({"model_not_found", "model_not_supported", "invalid_model"}),
        re.compile(r"^model not supported by provider|\bmodel\b.{0,200}\bdoes not exist\b"),
    ),
    _Meaning(  # faults that the operator must correct, reported as bad requests or as rate limits
        402,
        _OF_REQUESTS | {429},
        frozenset({"insufficient_quota", "exceeded_current_quota_error", "insufficient_balance"})
        | {"insufficient_credits", "billing_hard_limit_reached", "billing_not_active"},
        re.compile(r"\bcredit balance is too low\b|\binsufficient (?:account )?(?:balance|credits?|funds)\b"),
    ),
    _Meaning(
        401,
        _OF_REQUESTS,
        frozenset({"invalid_api_key", "api_key_invalid", "authentication_error", "invalid_authentication_error"}),
        re.compile(
            r"\bapi[ _-]?key\b.{0,40}\b(?:not valid|invalid|incorrect|expired)|\b(?:invalid|incorrect) api[ _-]?key"
        ),
    ),
    _Meaning(  # refusals of the request, reported by a gateway as faults of its own
        400,
        frozenset({424, 500, 502}),
        frozenset({"context_length_exceeded", "exceed_context_size_error", "string_above_max_length"})
        | {"invalid_request_error", "invalid_request_body", "badrequesterror"},
        re.compile(
            r"\bcontext (?:length|size|window)\b|\bmaximum (?:input|sequence|prompt) length\b"
            r"|\b(?:input|prompt) (?:is too long|length exceeds)\b"
        ),
    ),
)
_TYPE_STATUS = {
    "validation": 422,
    "template_error": 422,
    "missing_template_variable": 422,
    "tool_error": 422,
    "overloaded": 429,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "generation": 424,
    "invalid_request_error": 400,
    "invalid_request_body": 400,
    "badrequesterror": 400,
    "notfounderror": 404,
    "model_not_found": 404,
    "authentication_error": 401,
}
"""Kinds of errors without a status: `error_type` of TGI, `type`, `code` or `reason` of the others."""


@dataclass(frozen=True, slots=True)
class UpstreamError:
    """The reason why a try failed. `message` is one sentence or two, for the user of an app.

    `is_model_missing`: another model of the chain may do. `max_retries`: fewer than are usual make sense.
    `is_stale`: the connection had gone before a byte came back, as happens to one that was kept open too long.
    `is_refused`: the provider does not take the request itself. `code` and `param` are the provider's own.
    """

    message: str
    status: int | None = None
    is_transient: bool = False
    retry_after_s: float | None = None
    is_model_missing: bool = False
    max_retries: int | None = None
    is_stale: bool = False
    is_refused: bool = False
    code: str | None = None
    param: str | None = None

    def describe(self) -> dict[str, Any] | None:
        """`upstream_error` of a request: the provider's error for programs, under the status that fits its meaning.

        None where the provider gave no error.
        """
        status = self.status
        if self.is_model_missing:
            status = HTTPStatus.NOT_FOUND
        elif self.is_refused:
            status = HTTPStatus.BAD_REQUEST if status != HTTPStatus.REQUEST_ENTITY_TOO_LARGE else status
        elif status is None or refuses_request(status):
            return None  # no answer, or one from something before the provider
        known = {"code": self.code, "param": self.param, "retry_after_s": self.retry_after_s}
        return {"status": int(status), **{name: value for name, value in known.items() if value is not None}}


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed try, with the partial answer if there is one."""

    error: UpstreamError
    output_data: Mapping[str, Any] | None = None
    usage: Usage = field(default_factory=Usage)
    model: str | None = None

    def as_event(self) -> GenerationFailed:
        error = self.error
        return GenerationFailed(
            Code.MODEL_ERROR,
            error.message,
            transient=error.is_transient,
            retry_after_s=error.retry_after_s,
            output_data=self.output_data,
            usage=self.usage,
            model=self.model,
            upstream_error=error.describe(),
        )


def is_success(status: int) -> bool:
    return 200 <= status < 300  # noqa: PLR2004 - the class of success, RFC 9110


def read_refusal(status: int, headers: Mapping[str, str], body: bytes, *, now: datetime) -> UpstreamError:
    """The error of an unsuccessful answer. `headers` are in lower case."""
    document = read_document(body)
    words = words_of(document) if document is not None else to_words(body.decode("utf-8", "replace"))
    error = _judge(status, words or to_words(headers.get("x-error-message", "")), document)
    if not error.is_transient:
        return error
    return replace(error, retry_after_s=read_retry_after(status, headers, document, now))


def read_reported(document: Any) -> UpstreamError:
    """The error that a document reports under a successful status."""
    return _judge(_reported_status(document), words_of(document), document)


def is_error(document: Mapping[str, Any]) -> bool:
    """Whether a document under a successful status reports an error."""
    if document.get("error") or document.get("object") == "error":
        return True
    if _SIGNS.isdisjoint(document):  # nearly always
        return False
    status = document.get("base_resp")  # MiniMax's
    if isinstance(status, dict) and status.get("status_code"):
        return True
    has_words = any(document.get(name) for name in ("detail", "errors")) or any(
        isinstance(words := document.get(name), str) and words for name in ("message", "msg", "error_msg")
    )
    return has_words and _OF_ANSWERS.isdisjoint(name for name, value in document.items() if value)


def refuses_request(status: int) -> bool:
    """Whether an error with this status is about the request itself: no provider's outage, no fault of the operator."""
    return HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _NOT_OF_THE_REQUEST


def _judge(status: int, words: str, document: Any) -> UpstreamError:
    is_content = _is_about_content(status, words, document)
    status = HTTPStatus.BAD_REQUEST.value if is_content else _meant(status, words.lower(), kinds_of(document))
    is_input_fault = _is_input_fault(status, document)
    is_transient = status in TRANSIENT and not is_input_fault
    return UpstreamError(
        _sentence(status, words, is_transient=is_transient),
        status=status,
        is_transient=is_transient,
        is_model_missing=status in MODEL_GONE,
        max_retries=_MAX_RETRIES.get(status),
        is_refused=is_input_fault or refuses_request(status),
        code=name_of(document, _CODE, "code", "error_type", "reason") or (CONTENT_FILTER if is_content else None),
        param=name_of(document, _PARAM, "param"),
    )


def _is_about_content(status: int, words: str, document: Any) -> bool:
    """Whether the provider refuses the content of the request, under whatever status."""
    if any(_CONTENT_KINDS.search(kind) for kind in kinds_of(document)):
        return True
    return status == HTTPStatus.FORBIDDEN and _CONTENT_WORDS.search(words.lower()) is not None


def _is_input_fault(status: int, document: Any) -> bool:
    """hf-inference answers 500 to an input that its pipeline refuses; the warnings show it."""
    return (
        status == HTTPStatus.INTERNAL_SERVER_ERROR
        and isinstance(document, dict)
        and document.get("error") == "unknown error"
        and bool(document.get("warnings"))
    )


def _meant(status: int, words: str, kinds: list[str]) -> int:
    """The status that fits what the error says. `words` and `kinds` are in lower case."""
    return next((meaning.status for meaning in _MEANINGS if meaning.fits(status, words, kinds)), status)


def _sentence(status: int, words: str, *, is_transient: bool) -> str:
    words = words or _phrase(status)
    said = f": {words}" if words.endswith((".", "!", "?", "…")) else f": {words}."
    match status:
        case 401:
            return f"The server's Hugging Face token was refused{said} The operator must set a valid HF_API_TOKEN."
        case 402:
            return (
                f"The server's Hugging Face account has no credits left{said} "
                "The operator must buy credits or wait for the next month's."
            )
        case 403:
            return (
                f"The server's Hugging Face token is not allowed to do this{said} The operator must give it the "
                "permission 'Make calls to Inference Providers', or accept the terms of the model."
            )
    summary = "cannot answer at the moment" if is_transient else "refused the request"
    if status in MODEL_GONE:
        summary = "does not have this model"
    elif status in _REDIRECTS:
        summary = "sent the request elsewhere, where it is not taken"
    return f"The model provider {summary} ({status}){said}"


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "no reason given"


def _reported_status(document: Any) -> int:
    """The status that fits an error under 200; 500 if it is unknown."""
    for place in places_of(document):
        for name in ("http_status_code", "status_code", "code", "status"):
            value = place.get(name)
            if str(value).isdecimal() and HTTPStatus.BAD_REQUEST <= int(str(value)[:9]) < 600:  # noqa: PLR2004
                return int(str(value))
    return next((_TYPE_STATUS[kind] for kind in kinds_of(document) if kind in _TYPE_STATUS), 500)


def read_retry_after(status: int, headers: Mapping[str, str], document: Any, now: datetime) -> float | None:
    """Seconds from `Retry-After` (a number or an HTTP date, RFC 9110 10.2.3), else from hf-inference's estimate."""
    if status not in _WITH_RETRY_AFTER:
        return None
    found = _seconds_of(headers.get("retry-after", ""), now)
    if found is None and isinstance(document, dict):
        estimate = document.get("estimated_time")
        found = estimate if isinstance(estimate, (int, float)) and not isinstance(estimate, bool) else None
    if found is None or not found >= 0:  # NaN included
        return None
    return float(min(found, MAX_RETRY_AFTER_S))  # an integer may be too large for a float


def _seconds_of(value: str, now: datetime) -> float | None:
    try:
        return float(value)
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds())
