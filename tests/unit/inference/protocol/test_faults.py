"""Refusals: what is said to users, what may be tried again, and when."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from server.inference.protocol import UpstreamError, read_refusal
from server.inference.protocol.faults import is_error

NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)


def refusal(status: int, body: Any = None, **headers: str) -> UpstreamError:
    raw = body if isinstance(body, bytes) else json.dumps({"error": "words"} if body is None else body).encode()
    return read_refusal(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw, now=NOW)


@pytest.mark.parametrize("status", [408, 424, 425, 429, 500, 502, 503, 504, 520, 524, 529])
def test_an_outage_may_be_tried_again(status: int) -> None:
    assert refusal(status).is_transient


@pytest.mark.parametrize("status", [301, 307, 400, 401, 402, 403, 404, 405, 409, 410, 413, 415, 422, 451, 501, 505])
def test_a_refusal_is_final(status: int) -> None:
    error = refusal(status, retry_after="5")
    assert not error.is_transient
    assert error.retry_after_s is None


def test_an_input_that_breaks_a_pipeline_is_final_though_it_is_a_500() -> None:
    error = refusal(500, {"error": "unknown error", "warnings": ["There was an inference error: no"]})
    assert not error.is_transient
    assert error.message.endswith("unknown error (There was an inference error: no).")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b"Not Found"),
        (410, None),
        (400, {"error": {"message": "x", "code": "model_not_found"}}),
        (400, {"error": {"message": "x", "code": "model_not_supported"}}),
        (400, {"error": "Model not supported by provider hf-inference"}),
    ],
)
def test_a_model_that_is_not_there_makes_way_for_the_next(status: int, body: Any) -> None:
    assert refusal(status, body).is_model_missing


@pytest.mark.parametrize("body", [{"error": "too long"}, {"error": {"message": "x", "code": None}}, [1], "x"])
def test_another_400_is_about_the_input_and_not_the_model(body: Any) -> None:
    assert not refusal(400, body).is_model_missing


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("Mon, 23 Nov 2026 08:01:00 GMT", 60.0),
        ("Mon, 23 Nov 2026 07:00:00 GMT", 0.0),
        ("1e9", 600.0),
        ("Fri, 31 Dec 2100 00:00:00 GMT", 600.0),
        ("-5", None),
        ("nan", None),
        ("soon", None),
        ("", None),
        ("Mon, 23 Nov 9999999999999999999 08:00:00 GMT", None),
        ("Mon, 23 Nov 2026 08:00:00 +99999999999999999999", None),
    ],
)
@pytest.mark.parametrize("status", [429, 500, 503])
def test_retry_after_is_read_and_bounded(status: int, value: str, seconds: float | None) -> None:
    assert refusal(status, retry_after=value).retry_after_s == seconds


def test_a_loading_model_says_itself_how_long_it_takes() -> None:
    body = {"error": "Model a/b is currently loading", "estimated_time": 20.0}
    assert refusal(503, body).retry_after_s == 20.0
    assert refusal(503, body, retry_after="3").retry_after_s == 3.0
    assert refusal(503, {**body, "estimated_time": True}).retry_after_s is None
    assert refusal(503, {**body, "estimated_time": 10**400}).retry_after_s == 600.0


@pytest.mark.parametrize(("status", "retries"), [(424, 1), (500, 2), (504, 1), (502, None), (503, None), (429, None)])
def test_what_rarely_passes_is_tried_fewer_times(status: int, retries: int | None) -> None:
    assert refusal(status).max_retries == retries


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(401, "valid HF_API_TOKEN"), (402, "buy credits"), (403, "Make calls to Inference Providers")],
)
def test_a_fault_of_the_operators_names_the_remedy(status: int, remedy: str) -> None:
    message = refusal(status).message
    assert ": words. The operator must" in message
    assert remedy in message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "m"}}, "m"),
        ({"error": "m"}, "m"),
        ({"error": ["m", "n"]}, "m; n"),
        ({"detail": "m"}, "m"),
        ({"detail": [{"loc": ["body", 0], "msg": "m"}, {"msg": "n"}]}, "body.0: m; n"),
        ({"message": "m", "reason": "R"}, "m"),
        ([{"error": {"message": "m"}}], "m"),
        ({"error": {"error": "m"}}, "m"),
        ({"detail": {"error": "m"}}, "m"),
        ({"errors": [{"message": "m"}, "n"]}, "m; n"),
        (b"m\r\n", "m"),
        (b'data: {"error": "m"}\n\ndata: [DONE]\n\n', "m"),
        (b"<html>m</html>", "Unprocessable Entity"),
        ({"error": "<!DOCTYPE html><p>m</p>"}, "Unprocessable Entity"),
        (b"", "Unprocessable Entity"),
        ({}, "Unprocessable Entity"),
        ({"error": {"message": {"a": 1}}}, "Unprocessable Entity"),
    ],
)
def test_upstreams_words_are_found_in_every_shape(body: Any, words: str) -> None:
    expected = refusal(422, body).message.lower()
    assert expected == f"the model provider refused the request (422): {words.lower()}."


def test_the_words_of_a_page_are_those_of_its_header() -> None:
    assert "Invalid credentials" in refusal(401, b"<html>big</html>", x_error_message="Invalid credentials").message


def test_a_status_that_nobody_knows_has_words_too() -> None:
    assert refusal(529, b"").message == "The model provider cannot answer at the moment (529): no reason given."


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("key hf_abcdefghijklmnopqrstuvwxyz is bad", "key [redacted] is bad"),
        ("key hf_test1234 is bad", "key [redacted] is bad"),
        ("key sk-abcdefghijklmnop1234 is bad", "key [redacted] is bad"),
        ("Authorization: Bearer abcdef123456789 is bad", "Authorization: Bearer [redacted] is bad"),
        ("Calls on behalf of user jane_doe", "Calls on behalf of user"),
        ("provider hf-inference and hf_inference stay", "provider hf-inference and hf_inference stay"),
        ("a\x00b\x1b[31mc\nd\u2028e", "a\ufffdb [31mc d e"),
    ],
)
def test_words_are_made_fit_to_show(words: str, shown: str) -> None:
    assert refusal(400, {"error": words}).message == f"The model provider refused the request (400): {shown}."


def test_long_words_are_cut() -> None:
    message = refusal(400, {"error": "word " * 1000}).message
    assert message.endswith("…")
    assert len(message) < 600


WORDS = "The words of the fault."
CODED = {"error": {"message": WORDS, "type": "invalid_request_error", "code": "context_length_exceeded"}}
SHAPES: dict[str, Any] = {
    "FastAPI, an object": {"detail": CODED["error"]},
    "FastAPI, the error in it": {"detail": CODED},
    "FastAPI, a reason": {"detail": {"reason": WORDS}},
    "JSON in error": {"error": json.dumps(CODED)},
    "JSON in the message": {"error": {"message": json.dumps(CODED), "code": 400}},
    "JSON in detail": {"detail": json.dumps(CODED)},
    "JSON in JSON": {"message": json.dumps({"error": json.dumps(CODED)})},
    "JSON as a text": json.dumps(CODED),
    "OpenRouter": {
        "error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": json.dumps(CODED)}}
    },
    "OpenRouter, a text": {"error": {"message": "Provider returned error", "metadata": {"raw": WORDS}}},
    "Google, a list": [{"error": {"code": 400, "message": WORDS, "status": "INVALID_ARGUMENT"}}],
    "Anthropic": {"type": "error", "error": {"type": "invalid_request_error", "message": WORDS}},
    "a phrase beside it": {"statusCode": 400, "error": "Bad Request", "message": WORDS},
    "a phrase, a list": {"error": "Bad Request", "message": [WORDS]},
    "OAuth": {"error": "invalid_request", "error_description": WORDS},
    "Apigee": {"fault": {"faultstring": WORDS, "detail": {"errorcode": "a.b"}}},
    "AWS": {"Message": WORDS},
    "SageMaker": {"ErrorCode": "CLIENT_ERROR", "ErrorMessage": WORDS},
    "Tencent": {"Response": {"Error": {"Code": "InvalidParameter", "Message": WORDS}}},
    "Baidu": {"error_code": 336003, "error_msg": WORDS},
    "MiniMax": {"base_resp": {"status_code": 2013, "status_msg": WORDS}},
    "by field": {"errors": {"prompt": [WORDS]}},
    "messages": {"errors": {"messages": [WORDS]}},
    "errors": {"error": {"errors": [{"message": WORDS}]}},
    "msg": {"error": {"msg": WORDS}},
    "problem": {"type": "about:blank", "title": WORDS, "status": 400},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a10_the_words_are_found_in_every_shape(shape: str) -> None:
    error = refusal(400, SHAPES[shape])
    assert error.message in {
        f"The model provider refused the request (400): {where}{WORDS}" for where in ("", "prompt: ", "messages: ")
    }
    assert error.code == ("context_length_exceeded" if "context_length" in json.dumps(SHAPES[shape]) else None)


@pytest.mark.parametrize("start", [b"", b"event: error\n", b": x\r\n\r\n", b"\xef\xbb\xbf"])
def test_a10_the_error_of_a_stream_is_read(start: bytes) -> None:
    error = refusal(400, start + b"data: " + json.dumps(CODED).encode() + b"\r\n\r\n")
    assert (error.code, WORDS in error.message) == ("context_length_exceeded", True)


def test_a10_bare_names_are_the_last_resort() -> None:
    assert refusal(400, {"error": "Bad Request"}).message.endswith("Bad Request.")
    assert refusal(400, {"error": {"error": {}, "message": {}}}).message.endswith("Bad Request.")
    assert refusal(400, {"error": "invalid_request"}).message.endswith("invalid_request.")


@pytest.mark.parametrize(
    ("status", "error", "meant"),
    [
        (500, {"message": "This model's maximum context length is 8 tokens"}, 400),
        (500, {"message": "the request exceeds the available context size"}, 400),
        (502, CODED["error"], 400),
        (424, CODED["error"], 400),
        (500, {"message": "no luck", "type": "server_error"}, 500),
        (503, CODED["error"], 503),
        (429, {"message": "x", "code": "insufficient_quota"}, 402),
        (429, {"message": "You exceeded your current quota, please check your plan"}, 429),  # Google's rate limit, too
        (400, {"message": "Your credit balance is too low to access the API."}, 402),
        (400, {"message": "x", "code": "billing_hard_limit_reached"}, 402),
        (400, {"message": "API key not valid. Please pass a valid API key."}, 401),
        (400, {"message": "x", "type": "authentication_error"}, 401),
        (422, {"message": "x", "code": "model_not_found"}, 404),
        (403, {"message": "x", "code": "model_not_found"}, 404),
        (400, {"message": "The model `a/b` does not exist"}, 404),
        (400, {"message": "The image of the message does not exist"}, 400),
        (498, {"message": "x"}, 498),
    ],
)
def test_a10_an_error_has_the_status_that_it_means(status: int, error: dict[str, Any], meant: int) -> None:
    found = refusal(status, {"error": error})
    assert (found.status, found.is_model_missing) == (meant, meant == 404)
    assert found.is_transient is (meant in {429, 498, 500, 503})
    assert found.is_refused is (meant in {400, 404})


@pytest.mark.parametrize(
    ("document", "is_one"),
    [
        ({"base_resp": {"status_code": 1001, "status_msg": "x"}, "choices": []}, True),
        ({"base_resp": {"status_code": 0, "status_msg": ""}, "choices": []}, False),
        ({"error_code": 1, "error_msg": "x"}, True),
        ({"code": 500, "msg": "x"}, True),
        ({"success": False, "errors": [{"message": "x"}]}, True),
        ({"message": "ok", "choices": [{}]}, False),
        ({"error": None, "errors": [], "msg": "", "message": ""}, False),
        ({"object": "error"}, True),
    ],
)
def test_an_error_under_200_is_one(document: dict[str, Any], *, is_one: bool) -> None:
    assert is_error(document) is is_one
