"""Every error of the server in OpenAI's shape."""

import json

import pytest

from server.errors import FieldError, Invalid, NotFound, Problem, RateLimited, Unauthenticated, Unavailable
from server.openai.refusals import error_event, error_response, limit_headers
from server.openapi.problems import problem_classes


def made(kind: type[Problem]) -> Problem:
    if issubclass(kind, (RateLimited, Unavailable)):
        return kind("words", retry_after_s=2)
    return kind("words")


@pytest.mark.parametrize("kind", list(problem_classes()), ids=lambda kind: kind.__name__)
def test_every_error_has_the_four_fields(kind: type[Problem]) -> None:
    wording = error_response(made(kind))
    error = wording.body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] == "words"
    assert wording.status == (400 if kind.status == 422 else kind.status)
    assert error["type"].endswith("_error")


def test_the_first_field_that_is_wrong_is_named() -> None:
    errors = [FieldError("temperature", "is wrong"), FieldError("n", "is wrong")]
    assert error_response(Invalid("words", errors=errors)).body["error"]["param"] == "temperature"
    assert error_response(Invalid("words", errors=[FieldError("(body)", "x")])).body["error"]["param"] is None


def test_a_model_that_is_not_there_has_its_own_code() -> None:
    missing = error_response(NotFound("words", errors=[FieldError("model", "x")]))
    assert (missing.body["error"]["code"], missing.status) == ("model_not_found", 404)
    assert error_response(NotFound("words")).body["error"]["code"] == "not_found"


def test_headers_that_tell_what_to_do_are_kept() -> None:
    assert error_response(RateLimited("words", retry_after_s=3)).headers == {"Retry-After": "3"}
    assert "WWW-Authenticate" in error_response(Unauthenticated()).headers


@pytest.mark.parametrize("kind", list(problem_classes()), ids=lambda kind: kind.__name__)
def test_clients_repeat_by_themselves_only_what_may_help(kind: type[Problem]) -> None:
    is_in_vain = "x-should-retry" in error_response(made(kind)).headers
    assert is_in_vain == (kind.status in {409, 502, 504})


def test_an_error_in_a_stream_is_one_event() -> None:
    event = error_event(NotFound("words")).decode()
    assert event.endswith("\n\n")
    assert json.loads(event.removeprefix("data: "))["error"]["message"] == "words"


def test_limits_are_shown_as_openai_shows_them() -> None:
    assert limit_headers(limit=60, remaining=59, reset_s=1) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
    }
