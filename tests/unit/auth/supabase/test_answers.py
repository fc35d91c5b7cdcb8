"""What Supabase Auth or a gateway before it may answer: of any shape, and never a reason to crash or to leak."""

import time
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.auth.supabase.answers import UnexpectedAnswer, read_object, read_session, read_user
from server.auth.supabase.error_mapping import Operation, map_error
from server.auth.supabase.error_response import MAX_TEXT, read_error_response
from server.auth.supabase.project_keys import ProjectKeys
from server.errors import Problem

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
NAMES = ["code", "error_code", "error", "msg", "message", "error_description", "weak_password", "error_id"]
USER = {"id": "6f1c2b8e-9d3a-4c55-8a77-0b8f3b1d2e4f", "email": "a@b.co", "created_at": "2026-01-02T03:04:05.123456Z"}
SESSION: dict[str, Any] = {"access_token": "a", "refresh_token": "r", "expires_in": 60, "user": USER}


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (
            {"code": 422, "error_code": "user_already_exists", "msg": "User already registered"},
            "user_already_exists",
            "U",
        ),
        ({"code": "user_already_exists", "message": "User already registered"}, "user_already_exists", "User"),
        (
            {"error": "invalid_grant", "error_description": "Invalid login credentials"},
            "invalid_credentials",
            "Invalid",
        ),
        ({"error": "invalid_request", "error_description": "odd"}, "", "odd"),
        ({"code": "P0001", "message": "from a trigger", "hint": "h"}, "", "from a trigger"),
        ({"message": "Invalid API key", "hint": "Double check"}, "", "Invalid API key"),
        ({"msg": "two\nlines\tand \x00 more"}, "", "two lines and more"),
        ({"msg": "x" * 10_000}, "", "x" * MAX_TEXT),
        ({}, "", ""),
    ],
)
def test_a_refusal_is_read_in_every_form(body: dict[str, Any], code: str, text: str) -> None:
    refusal = read_error_response(400, orjson.dumps(body))
    assert refusal.code == code
    assert refusal.text.startswith(text)
    assert len(refusal.text) <= MAX_TEXT


@given(st.dictionaries(st.sampled_from(NAMES), JSON) | JSON, st.integers(100, 599), st.sampled_from(Operation))
def test_any_refusal_has_a_meaning(body: Any, status: int, step: Operation) -> None:
    verdict = map_error(read_error_response(status, orjson.dumps(body)), step)
    assert isinstance(verdict.problem, Problem)
    assert verdict.problem.status in {401, 403, 409, 422, 429, 503}
    assert bool(verdict.event) or not verdict.fix


@given(st.binary(max_size=200))
def test_any_bytes_are_a_refusal(body: bytes) -> None:
    assert read_error_response(500, body).status == 500


@given(JSON)
def test_what_is_not_a_session_is_told(data: Any) -> None:
    for name, good in SESSION.items():
        if data != good and not isinstance(data, str) and name != "expires_in":
            with pytest.raises(UnexpectedAnswer):
                read_session(SESSION | {name: data}, now=time.time())


@pytest.mark.parametrize(
    ("changes", "expires_at"),
    [({}, 1060), ({"expires_at": 5000}, 5000), ({"expires_in": "60"}, 4600), ({"expires_in": -1}, 4600)],
)
def test_a_session_says_when_it_expires(changes: dict[str, Any], expires_at: int) -> None:
    assert read_session(SESSION | changes, now=1000).expires_at == expires_at


@pytest.mark.parametrize("changes", [{"id": "x"}, {"id": None}, {"created_at": "yesterday"}, {"last_sign_in_at": 5}])
def test_what_is_not_a_user_is_told(changes: dict[str, Any]) -> None:
    assert read_user(USER).email == "a@b.co"
    with pytest.raises(UnexpectedAnswer):
        read_user(USER | changes)


@pytest.mark.parametrize("body", [None, b"", b"[]", b"null", b"<html>", b'"x"'])
def test_what_is_not_an_object_is_told(body: bytes | None) -> None:
    with pytest.raises(UnexpectedAnswer):
        read_object(body)


@pytest.mark.parametrize(
    ("anon", "service", "sent"),
    [
        ("eyJanon", None, {"apikey": "eyJanon"}),
        ("eyJanon", "eyJservice", {"apikey": "eyJanon"}),
        ("sb_publishable_a", "sb_secret_s", {"apikey": "sb_secret_s", "Sb-Forwarded-For": "203.0.113.9"}),
    ],
)
def test_the_client_is_named_only_with_a_key_that_may(anon: str, service: str | None, sent: dict[str, str]) -> None:
    assert ProjectKeys(anon, service).for_stranger("203.0.113.9").headers == sent


@pytest.mark.parametrize(("service", "bearer"), [("eyJservice", "Bearer eyJservice"), ("sb_secret_s", None)])
def test_a_new_key_is_never_a_bearer(service: str, bearer: str | None) -> None:
    credentials = ProjectKeys("a", service).for_admin()
    assert credentials is not None
    assert credentials.headers.get("Authorization") == bearer
    assert service not in repr(credentials)
