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

_RESPONSES = (
    "There is no Responses API here: set the client to chat completions. In the Agents SDK, "
    "set_default_openai_api('chat_completions'), in JavaScript setOpenAIAPI('chat_completions'); in @ai-sdk/openai, "
    "createOpenAI(…).chat(model); in LangChain, use_responses_api=False (useResponsesApi: false); in LlamaIndex, "
    "OpenAILike."
)
_MEDIA = "There is no such path here: images and speech are made with POST /api/requests; GET /api/models lists how."
_BASE_URL = "There is nothing at this path: the base URL of a client ends with /v1, once."
_ENDS = ("/chat/completions", "/completions", "/embeddings", "/responses")
"""Paths of OpenAI's clients behind a base URL."""


def hint_for(path: str) -> str | None:
    """The advice for a path of OpenAI's clients that is not there. None for another path."""
    if path.startswith("/v1/responses"):
        return _RESPONSES
    if path.startswith(("/v1/images", "/v1/audio")):
        return _MEDIA
    return _BASE_URL if path.rstrip("/").endswith(_ENDS) else None


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
