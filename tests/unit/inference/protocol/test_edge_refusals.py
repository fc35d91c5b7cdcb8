"""What a refusal of the edge function means, and of the platform before it."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from server.inference.events import Call, Task
from server.inference.protocol import build_edge_call, read_edge_refusal

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def said(code: str, detail: str = "Words.") -> dict[str, str]:
    return {"error": "Model call failed", "detail": detail, "code": code, "request_id": "x"}


CASES: list[tuple[int, dict[str, str], Any, dict[str, Any]]] = [
    (429, {"retry-after": "7"}, said("MODEL_ERROR"), {"is_transient": True, "retry_after_s": 7.0, "max_retries": 0}),
    (503, {"x-upstream-status": "503"}, said("MODEL_ERROR"), {"is_transient": True, "status": 503, "max_retries": 0}),
    (504, {}, said("MODEL_ERROR"), {"is_transient": True, "max_retries": 0, "message": "Words."}),
    (502, {"x-upstream-status": "402"}, said("MODEL_ERROR"), {"is_transient": False, "status": 402}),
    (502, {"x-upstream-status": "x"}, said("MODEL_ERROR"), {"is_transient": False, "status": 502}),
    (422, {}, said("VALIDATION_ERROR"), {"is_transient": False, "message": "Words."}),
    (503, {}, said("SERVER_ERROR"), {"is_transient": True}),
    (401, {}, said("AUTH_ERROR"), {"is_transient": False, "status": 401}),
    (401, {}, {"msg": "Invalid JWT"}, {"is_transient": False, "status": 401}),
    (404, {}, {"code": "NOT_FOUND", "message": "Requested function was not found"}, {"is_transient": False}),
    (546, {}, {"code": "WORKER_LIMIT", "message": "no resources"}, {"is_transient": True, "max_retries": None}),
    (503, {}, {"code": "BOOT_ERROR"}, {"is_transient": True}),
    (502, {}, b"<html>", {"is_transient": True}),
    (500, {}, b"", {"is_transient": True}),
    (502, {}, said("MODEL_ERROR", detail=""), {"message": "The edge function refused the request."}),
]


@pytest.mark.parametrize(("status", "headers", "body", "expected"), CASES)
def test_a_refusal_has_its_meaning(status: int, headers: dict[str, str], body: Any, expected: dict[str, Any]) -> None:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    error = read_edge_refusal(status, headers, raw, now=NOW)
    assert {name: getattr(error, name) for name in expected} == expected
    assert error.message


@pytest.mark.parametrize(
    ("status", "body", "named"),
    [
        (401, said("AUTH_ERROR"), "SUPABASE_SERVICE_ROLE_KEY"),
        (401, {"msg": "Invalid JWT"}, "config.toml"),
        (404, {}, "supabase functions deploy hf-inference"),
    ],
)
def test_what_the_operator_has_to_do_is_named(status: int, body: dict[str, str], named: str) -> None:
    assert named in read_edge_refusal(status, {}, orjson.dumps(body), now=NOW).message


def test_a_call_carries_the_whole_chain() -> None:
    call = Call(Task.CHAT_COMPLETION, ("org/a", "org/b"), {"prompt": "Hi"}, {"seed": 1})
    wire = build_edge_call(call, "http://127.0.0.1/f")
    assert isinstance(wire.body, bytes)
    assert orjson.loads(wire.body) == {
        "task": "chat-completion",
        "models": ["org/a", "org/b"],
        "input": {"prompt": "Hi"},
        "parameters": {"seed": 1},
        "stream": True,
    }
