"""What `/v1` does not take: every refusal in one shape, and in the client's own words."""

from typing import Any

import pytest
from openai import AsyncOpenAI, NotFoundError

from tests.acceptance.conftest import Api

PATH = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"n": 2}, "n", "must be 1 here"),
        ({"n": True}, "n", "must be 1 here"),
        ({"modalities": ["text", "audio"]}, "modalities", "left out"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls", "must be true or false"),
        ({"top_logprobs": 21}, "top_logprobs", "must be less than or equal to 20"),
        ({"best_of": 2}, "best_of", "must be 1 here"),
        ({"functions": [{"name": "f"}]}, "functions", "is not supported here"),
        ({"models": ["a/b"]}, "models", "is not supported here"),
        ({"api_key": "k"}, "api_key", "is not supported here"),
        ({"prompt": "hello"}, "prompt", "is not supported here"),
        ({"temperature": "hot"}, "temperature", "must be a number"),
        ({"max_tokens": 0}, "max_tokens", "must be greater than or equal to 1"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "must be greater than or equal to 1"),
        ({"max_completion_tokens": 1, "max_tokens": 2}, "max_tokens", "must be left out"),
        ({"stop": ["a"] * 65}, "stop", "must have at most 64 items"),
        ({"stream": "yes"}, "stream", "must be true or false"),
        ({"stream": True, "stream_options": "usage"}, "stream_options", "must be an object"),
        ({"messages": None}, "messages", "is required"),
        ({"messages": []}, "messages", "is required"),
        ({"messages": "hello"}, "messages", "must be an array"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "is required"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages.0.role", "must be"),
        ({"messages": [{"role": "user", "content": [{"poem": "a"}]}]}, "messages.0.content.0", "must have the type"),
        ({"messages": ["hello"]}, "messages.0", "must be an object"),
        ({"tools": [{"type": "function"}]}, "tools.0.function", "is required"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools.0.type", "must be 'function'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]},
            "messages.0.content.0.file",
            "must have",
        ),
        ({"max_tokens": 2.5}, "max_tokens", "must be a whole number"),
        ({"temperature": "0,7"}, "temperature", "must be a number"),
        ({"temperature": True}, "temperature", "must be a number"),
        ({"tool_choice": "f", "tools": [{"name": "g"}]}, None, "must have the tool"),
        ({"tool_choice": "required"}, None, "must have tools"),
        ({"response_format": {"type": "an odd one"}}, "response_format.type", "must match"),
        ({"model": None}, "model", "is required"),
        ({"model": 5}, "model", "must be a string"),
        ({"model": ""}, "model", "must have at least 1 character"),
    ],
)
async def test_what_is_wrong_is_named_as_the_client_knows_it(
    api: Api, fields: dict[str, Any], param: str | None, words: str
) -> None:
    reply = await api.post(PATH, {"model": "default", "messages": HELLO, **fields})
    error = reply.json["error"]
    assert (reply.status, error["type"], error["param"]) == (400, "invalid_request_error", param), error
    assert words in error["message"]
    assert (await api.get("/api/requests")).json == []


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"input": None}, "input", "is required"),
        ({"input": ""}, "input", "at least 1 character"),
        ({"input": []}, "input", "is required"),
        ({"input": [1, 2]}, "input", "check_embedding_ctx_length=False"),
        ({"input": [[1, 2]]}, "input", "check_embedding_ctx_length=False"),
        ({"input": ["one", " "]}, "input.1", "must not be blank"),
        ({"input": 3}, "input", "must be an array"),
        ({"encoding_format": "int8"}, "encoding_format", "must be 'float' or 'base64'"),
        ({"dimensions": 0}, "dimensions", "must be greater than or equal to 1"),
        ({"truncate": "END"}, "truncate", "must be true or false"),
        ({"stream": True}, "stream", "is not supported here"),
        ({"models": ["a/b"]}, "models", "is not supported here"),
    ],
)
async def test_what_is_wrong_with_embeddings_is_named_too(
    api: Api, fields: dict[str, Any], param: str, words: str
) -> None:
    reply = await api.post("/v1/embeddings", {"model": "default", "input": "one", **fields})
    error = reply.json["error"]
    assert (reply.status, error["param"]) == (400, param), error
    assert words in error["message"]


@pytest.mark.parametrize("path", [PATH, "/v1/embeddings"])
@pytest.mark.parametrize(
    ("options", "status", "kind"),
    [
        ({"data": b"{", "headers": {"Content-Type": "application/json"}}, 400, "invalid_request_error"),
        ({"data": b"[]", "headers": {"Content-Type": "application/json"}}, 400, "invalid_request_error"),
        ({"data": b"{}", "headers": {"Content-Encoding": "br"}}, 415, "invalid_request_error"),
        ({"json": {}, "headers": {"Authorization": "Bearer nonsense"}}, 401, "authentication_error"),
        ({"json": {}, "headers": {"Idempotency-Key": ""}}, 400, "invalid_request_error"),
    ],
)
async def test_a_body_or_a_header_that_cannot_be_taken_is_refused_in_the_same_shape(
    api: Api, path: str, options: dict[str, Any], status: int, kind: str
) -> None:
    reply = await api.send("POST", path, **options)
    assert (reply.status, reply.json["error"]["type"]) == (status, kind)
    assert set(reply.json) == {"error"}
    assert set(reply.json["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nothing", 404), ("GET", PATH, 405), ("POST", "/v1/models", 405), ("GET", "/v1/models/none", 404)],
)
async def test_what_is_not_there_is_refused_in_the_same_shape(api: Api, method: str, path: str, status: int) -> None:
    reply = await api.send(method, path)
    assert (reply.status, reply.json["error"]["type"]) == (status, "invalid_request_error")
    if status == 405:
        assert reply.headers["Allow"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/responses", "set_default_openai_api('chat_completions')"),
        ("/v1/responses/resp_1/cancel", "createOpenAI(…).chat(model)"),
        ("/v1/images/generations", "POST /api/requests"),
        ("/v1/v1/chat/completions", "the base URL of a client ends with /v1, once"),
    ],
)
async def test_a_path_of_openai_that_is_not_there_says_what_to_set(api: Api, path: str, words: str) -> None:
    reply = await api.post(path, {"model": "default", "input": "hi"})
    assert (reply.status, reply.json["error"]["type"]) == (404, "invalid_request_error")
    assert words in reply.json["error"]["message"]


async def test_openai_s_client_is_told_how_to_do_without_responses(api: Api) -> None:
    async with AsyncOpenAI(base_url=str(api.client.make_url("/v1")), api_key=api.token, max_retries=2) as client:
        with pytest.raises(NotFoundError, match="set the client to chat completions"):
            await client.responses.create(model="default", input="hi")


async def test_a_client_without_v1_in_its_base_url_is_told_so(api: Api) -> None:
    reply = await api.post("/chat/completions", {"model": "default", "messages": []})
    assert reply.status == 404
    assert "ends with /v1" in reply.json["detail"]


async def test_elsewhere_errors_keep_their_shape(api: Api) -> None:
    assert set((await api.get("/api/nothing")).json) == {"error", "detail", "code", "request_id"}
