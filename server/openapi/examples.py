"""Examples with values as the server gives them."""

from typing import Any

from server.errors import (
    BadSyntax,
    BodyTimeout,
    BodyTooLarge,
    Conflict,
    Forbidden,
    Invalid,
    KeyReused,
    MethodNotAllowed,
    ModelFailed,
    ModelTooSlow,
    NotFound,
    Problem,
    RangeNotSatisfiable,
    RateLimited,
    ServerFault,
    Unauthenticated,
    Unavailable,
    UnsupportedMedia,
)

USER_ID = "5f0c7c1e-6a0b-4a55-9d5e-0d6f2f0f7a11"
REQUEST_ID = "019ab0c4-5d1e-7c3a-9f20-3b1d2c4e5f60"
PROMPT = "Write a haiku about rain."

RUNNING: dict[str, Any] = {
    "id": REQUEST_ID,
    "created_at": "2026-11-23T08:00:00.123456Z",
    "completed_at": None,
    "user_id": USER_ID,
    "status": "processing",
    "model_type": "text2text",
    "model": "openai/gpt-oss-20b:fastest",
    "input_data": {"prompt": PROMPT},
    "output_data": None,
    "error_msg": None,
    "error_code": None,
    "token_used": None,
    "token_count": None,
    "processing_time": None,
    "attempt": 1,
    "queue_position": None,
    "deadline_at": "2026-11-23T08:10:00.123456Z",
}
COMPLETED: dict[str, Any] = RUNNING | {
    "completed_at": "2026-11-23T08:00:01.456789Z",
    "status": "completed",
    "output_data": {"output": "Rain taps on the roof\n…", "finish_reason": "stop"},
    "token_used": 93,
    "token_count": 21,
    "processing_time": 1.333,
}
FAILED: dict[str, Any] = RUNNING | {
    "completed_at": "2026-11-23T08:00:01.456789Z",
    "status": "failed",
    "error_msg": "The server's Hugging Face account has no credits left. Its operator would have to buy credits.",
    "error_code": "MODEL_ERROR",
    "processing_time": 1.333,
}
CANCELLED: dict[str, Any] = RUNNING | {
    "completed_at": "2026-11-23T08:00:01.456789Z",
    "status": "cancelled",
    "output_data": {"output": "Rain taps", "partial": True},
    "processing_time": 1.333,
}
STREAM = f"""id: 1.1-0
event: status
data: {{"id":"{REQUEST_ID}","status":"processing"}}

id: 1.1-9
event: delta
data: {{"segment":"output","text":"Rain taps"}}

: still here

"""
FEED = f"""event: snapshot
data: {{"requests":[{{"id":"{REQUEST_ID}","status":"processing"}}]}}

event: status
data: {{"id":"{REQUEST_ID}","status":"completed"}}

"""
USER: dict[str, Any] = {
    "id": USER_ID,
    "email": "alice@example.com",
    "created_at": "2026-11-23T07:59:00.000000Z",
    "last_sign_in_at": "2026-11-23T07:59:30.000000Z",
}
SESSION: dict[str, Any] = {
    "token": "eyJhbGciOiJIUzI1NiIs….eyJzdWIiOiI1ZjBj….Xq3k",
    "token_type": "bearer",
    "expires_in": 3600,
    "expires_at": 1795424370,
    "refresh_token": "v1.Xr8…",
    "user": USER,
}

_DETAILS: dict[type[Problem], str] = {
    BadSyntax: "The body is not valid JSON: unexpected end of data at line 1, column 18.",
    Invalid: "input_data.prompt: is required.",
    BodyTimeout: "The body did not arrive within 15 s.",
    BodyTooLarge: "The body may have at most 262144 bytes.",
    UnsupportedMedia: "Send JSON, with the header 'Content-Type: application/json'.",
    RangeNotSatisfiable: "The file has 48213 bytes: the range begins beyond its end.",
    Unauthenticated: Unauthenticated().detail,
    Forbidden: "This account may not do that.",
    NotFound: "There is no model request of yours with this id.",
    MethodNotAllowed: "This path answers to: GET,HEAD,POST.",
    Conflict: "There is an account with this e-mail already; sign in instead.",
    KeyReused: "This Idempotency-Key was used with another body; use a new key for a new request.",
    RateLimited: "Too many requests; slow down.",
    ModelFailed: "The model's provider answered with an error.",
    ModelTooSlow: "The model did not answer within 90 s.",
    ServerFault: ServerFault().detail,
    Unavailable: "The database is not available; try again.",
}


def error_example(problem: type[Problem]) -> dict[str, Any]:
    """The body of an answer with this error. Every class of the tree has words here; a test sees to it."""
    example = {
        "error": problem.title,
        "detail": _DETAILS[problem],
        "code": str(problem.code),
        "request_id": "9f86d081884c7d65",
    }
    if problem is Invalid:
        return example | {"errors": [{"field": "input_data.prompt", "message": "is required"}]}
    return example
