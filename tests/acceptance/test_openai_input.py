"""What clients send to `/v1`, and what upstream gets of it."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from huggingface_hub import AsyncInferenceClient
from openai import AsyncOpenAI
from pydantic import BaseModel
from yarl import URL

from server.http.bodies import MAX_DEPTH, MAX_MEMBERS
from tests.acceptance.conftest import Api, Start
from tests.acceptance.openai_upstream import WEATHER, deltas_answer, start_online, tool_answer
from tests.fakes.huggingface import Answer, FakeHuggingFace, chat_answer, event, json_answer

PATH = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"zz": {"type": "string"}, "a": {"type": "integer"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
BUILT_IN = {"type": "builtin_function", "function": {"name": "$web_search"}}
ABSENT = object()
IMAGE = "data:image/jpeg;base64,/9j/4A=="
AUDIO = {"data": base64.b64encode(b"RIFF0000WAVE").decode(), "format": "wav"}


@pytest.fixture
async def upstream() -> AsyncIterator[FakeHuggingFace]:
    async with FakeHuggingFace(default=lambda _: chat_answer("hi")) as fake:
        yield fake


@pytest.fixture
async def online(start: Start, upstream: FakeHuggingFace) -> Api:
    return await start_online(start, upstream)


@pytest.fixture
async def client(online: Api) -> AsyncIterator[AsyncOpenAI]:
    url = str(online.client.make_url("/v1"))
    async with AsyncOpenAI(base_url=url, api_key=online.token, max_retries=0) as client:
        yield client


def named(schema: Any, name: str = "answer") -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}


def nested(depth: int) -> dict[str, Any]:
    """A schema of objects inside objects."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def tool(parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "parallel_tool_calls": (
        {"tools": [WEATHER], "parallel_tool_calls": False},
        {"tools": [WEATHER], "parallel_tool_calls": False},
    ),
    "parallel_tool_calls without tools": (
        {"parallel_tool_calls": False, "tool_choice": "auto", "tools": []},
        {"parallel_tool_calls": ABSENT, "tool_choice": ABSENT, "tools": ABSENT},
    ),
    "empty lists": ({"stop": [], "modalities": [], "logit_bias": None}, {"stop": ABSENT, "modalities": ABSENT}),
    "empty stops": ({"stop": ["", "x"]}, {"stop": ["x"]}),
    "an empty stop": ({"stop": ""}, {"stop": ABSENT}),
    "max_tokens 65536": ({"max_tokens": 65_536}, {"max_tokens": 65_536}),
    "max_completion_tokens 131072": (
        {"max_completion_tokens": 131_072, "max_tokens": 131_072},
        {"max_tokens": 131_072, "max_completion_tokens": ABSENT},
    ),
    "top_p 0": ({"top_p": 0}, {"top_p": 0}),
    "seed of 64 bits": ({"seed": 2**64 - 1}, {"seed": 2**64 - 1}),
    "reasoning_effort of one model": ({"reasoning_effort": "default"}, {"reasoning_effort": "default"}),
    "sampling extras": (
        sampling := {
            "top_k": 20,
            "min_p": 0.05,
            "repetition_penalty": 1.1,
            "chat_template_kwargs": {"enable_thinking": False, "a": [None]},
        },
        sampling,
    ),
    "other extra_body fields": (
        extras := {"guided_json": SCHEMA, "ignore_eos": True, "provider": {"order": ["groq"]}, "extra": 1},
        extras,
    ),
    "fields that change the answer": (
        fields := {"logit_bias": {"50256": -100}, "verbosity": "low", "web_search_options": {"x": 1}},
        fields,
    ),
    "fields that do not change the answer": (
        {
            "user": "u",
            "metadata": {"a": "b"},
            "store": True,
            "service_tier": "flex",
            "prediction": {"type": "content", "content": "hi"},
            "prompt_cache_key": "k",
            "safety_identifier": "s",
            "stream_options": {"include_usage": True},
            "n": 1,
            "modalities": ["text"],
        },
        dict.fromkeys(("user", "metadata", "store", "service_tier", "prediction", "n", "modalities"), ABSENT),
    ),
    "tool_choice with the name alone": (
        {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "weather"}},
        {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
    ),
    "empty words": (
        {"tool_choice": "", "reasoning_effort": "", "tools": [WEATHER]},
        {"tool_choice": ABSENT, "reasoning_effort": ABSENT, "tools": [WEATHER]},
    ),
    "json_object with value": (
        {"response_format": {"type": "json_object", "value": SCHEMA}},
        {"response_format": named(SCHEMA)},
    ),
    "json with value": ({"response_format": {"type": "json", "value": SCHEMA}}, {"response_format": named(SCHEMA)}),
    "json alone": ({"response_format": {"type": "json"}}, {"response_format": {"type": "json_object"}}),
    "json_object with schema": (
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"response_format": named(SCHEMA)},
    ),
    "json_object alone": ({"response_format": {"type": "json_object"}}, {"response_format": {"type": "json_object"}}),
    "json_schema with value": (
        {"response_format": {"type": "json_schema", "value": {"name": "person", "schema": SCHEMA}}},
        {"response_format": named(SCHEMA, "person")},
    ),
    "json_schema that is the schema": (
        {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
        {"response_format": named(SCHEMA)},
    ),
    "json_schema with nulls": (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "description": None, "schema": {"enum": [None]}, "strict": None, "x": 1},
            }
        },
        {"response_format": named({"enum": [None]}, "a")},
    ),
    "regex": (
        {"response_format": {"type": "regex", "value": "[0-9]+"}},
        {"response_format": {"type": "regex", "value": "[0-9]+"}},
    ),
    "tool_choice without a type": (
        {"tools": [WEATHER], "tool_choice": {"function": {"name": "weather"}}},
        {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
    ),
    "a tool with nulls and unknown fields": (
        {"tools": [{"type": "function", "x": 1, "function": {"name": "f", "description": None, "parameters": None}}]},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
    ),
    "a tool without a type": (
        {"tools": [{"function": WEATHER["function"], "cache_control": {"type": "ephemeral"}}]},
        {"tools": [{**WEATHER, "cache_control": {"type": "ephemeral"}}]},
    ),
    "a tool without parameters, from PHP": (
        {"tools": [tool([])]},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
    ),
    "a deep schema of a tool": ({"tools": [tool(nested(50))]}, {"tools": [tool(nested(50))]}),
    "a deep schema of a format": ({"response_format": named(nested(30))}, {"response_format": named(nested(30))}),
    "a deep extra": ({"guided_json": nested(50)}, {"guided_json": nested(50)}),
    "integers of 64 bits in a schema": (
        {"tools": [tool({"maximum": 2**64 - 1, "minimum": -(2**63)})]},
        {"tools": [tool({"maximum": 2**64 - 1, "minimum": -(2**63)})]},
    ),
    "logprobs": ({"logprobs": True, "top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
    "logprobs not wanted": ({"logprobs": False}, {"logprobs": False}),
    "whole numbers as floats": (
        {"max_tokens": 256.0, "seed": 42.0, "n": 1.0, "top_k": 5.0, "logprobs": 1, "top_logprobs": 2.0},
        {"max_tokens": 256, "seed": 42, "top_k": 5, "logprobs": True, "top_logprobs": 2, "n": ABSENT},
    ),
    "numbers and flags as texts": (
        {"max_tokens": "256", "temperature": "0.7", "top_p": "1.0", "n": "1", "logprobs": "False", "stream": "false"},
        {"max_tokens": 256, "temperature": 0.7, "top_p": 1, "logprobs": False, "n": ABSENT},
    ),
    "a seed of 64 bits as a text": ({"seed": str(2**64 - 1)}, {"seed": 2**64 - 1}),
    "no limit": ({"max_tokens": -1}, {"max_tokens": ABSENT}),
    "limits that are the same": ({"max_tokens": 5, "max_completion_tokens": "5"}, {"max_tokens": 5}),
    "words in capitals": (
        {"tools": [WEATHER], "tool_choice": "AUTO", "reasoning_effort": "High"},
        {"tool_choice": "auto", "reasoning_effort": "high"},
    ),
    "what has no effect alone": (
        {"audio": {"voice": "alloy"}, "function_call": "auto", "best_of": 1, "functions": []},
        dict.fromkeys(("audio", "function_call", "best_of", "functions"), ABSENT),
    ),
    "more stops than OpenAI takes": ({"stop": [None, *"abcde"]}, {"stop": [*"abcde"]}),
    "tool_choice any": ({"tools": [WEATHER], "tool_choice": "any"}, {"tool_choice": "required"}),
    "tool_choice as an object": ({"tools": [WEATHER], "tool_choice": {"type": "any"}}, {"tool_choice": "required"}),
    "tool_choice of Anthropic": (
        {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "weather"}},
        {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
    ),
    "tool_choice as a name": (
        {"tools": [WEATHER], "tool_choice": "weather"},
        {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
    ),
    "tool_choice of nothing": ({"tools": [WEATHER], "tool_choice": {}}, {"tool_choice": ABSENT}),
    "tool_choice among some tools": (
        allowed := {
            "tools": [WEATHER],
            "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"a": None}]}},
        },
        allowed,
    ),
    "tools of a provider": (
        provided := {
            "tools": [WEATHER, {"type": "web_search", "filters": {"a": [1]}}, BUILT_IN],
            "tool_choice": "auto",
        },
        provided,
    ),
    "only tools of a provider": (
        {"tools": [BUILT_IN], "tool_choice": "required"},
        {"tools": [BUILT_IN], "tool_choice": "required"},
    ),
    "a tool without an inner object": (
        {"tools": [None, {"type": "function", "name": "f", "parameters": SCHEMA, "strict": "true"}]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA, "strict": True}}]},
    ),
    "a tool of Anthropic": (
        {"tools": [{"name": "f", "description": "d", "input_schema": SCHEMA}]},
        {"tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}]},
    ),
    "a schema as a text": ({"tools": [tool(json.dumps(SCHEMA))]}, {"tools": [tool(SCHEMA)]}),
    "a long description and a name of MCP": (
        long := {
            "tools": [{"type": "function", "function": {"name": "mcp__" + "x" * 90, "description": "d" * 30_000}}]
        },
        long,
    ),
    "many tools": (many := {"tools": [{"type": "function", "function": {"name": f"f{n}"}} for n in range(300)]}, many),
    "a format as a word": ({"response_format": "JSON_OBJECT"}, {"response_format": {"type": "json_object"}}),
    "no format": ({"response_format": {}}, {"response_format": ABSENT}),
    "a format without a type": (
        {"response_format": {"json_schema": {"name": "a", "schema": SCHEMA}}},
        {"response_format": named(SCHEMA, "a")},
    ),
    "a format with a name of Python": (
        {"response_format": named(SCHEMA, "List[Person] | None")},
        {"response_format": named(SCHEMA, "List_Person_None")},
    ),
    "a schema that allows all": ({"response_format": named({})}, {"response_format": {"type": "json_object"}}),
    "a format of a provider": (
        grammar := {"response_format": {"type": "grammar", "grammar": "root ::= 'a'"}},
        grammar,
    ),
}


@pytest.mark.parametrize("name", FIELDS)
async def test_a_field_of_a_chat_goes_upstream(online: Api, upstream: FakeHuggingFace, name: str) -> None:
    sent, expected = FIELDS[name]
    reply = await online.post(PATH, {"model": "default", "messages": HELLO, **sent})
    assert reply.status == 200, reply.json
    body = upstream.calls[0].body
    assert {field: body.get(field, ABSENT) for field in expected} == expected
    assert (body["model"], body["messages"], body["stream"]) == ("org/model", HELLO, True)


def part(kind: str, value: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": kind, kind: value, **more}]}


def replayed(**fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "so", **fields}


DETAILS = [{"type": "reasoning.encrypted", "data": "c2ln", "id": None}]
MESSAGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "unknown fields": (
        replayed(parsed={"a": 1}, annotations=[], audio=None, function_call=None, weight=1, id="m1", refusal=None),
        replayed(),
    ),
    "nulls": (replayed(reasoning=None, tool_call_id=None, name=None, tool_calls=[]), replayed()),
    "reasoning": (
        kept := replayed(
            reasoning_content="hm",
            reasoning="hm",
            reasoning_details=DETAILS,
            refusal="no",
            extra_content={"google": {"thought_signature": "c2ln"}},
        ),
        kept,
    ),
    "a call": (
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    **CALL,
                    "index": 0,
                    "extra_content": {"a": None},
                    "x": 1,
                    "function": {"name": "weather", "arguments": "{}", "parsed_arguments": {}, "description": None},
                }
            ],
        },
        {"role": "assistant", "tool_calls": [{**CALL, "index": 0, "extra_content": {"a": None}}]},
    ),
    "a call without arguments": (
        {
            "role": "assistant",
            "tool_calls": [{"id": "c1", "type": None, "function": {"name": "weather", "arguments": None}}],
        },
        {"role": "assistant", "tool_calls": [CALL]},
    ),
    "a call with arguments as an object": (
        replayed(tool_calls=[{**CALL, "function": {"name": "weather", "arguments": {"a": 1}}}]),
        replayed(tool_calls=[{**CALL, "function": {"name": "weather", "arguments": '{"a":1}'}}]),
    ),
    "a call without an id": (replayed(tool_calls=[{**CALL, "id": ""}]), replayed(tool_calls=[{**CALL, "id": ""}])),
    "content null of an assistant": ({"role": "assistant", "content": None}, {"role": "assistant", "content": ""}),
    "no content of an assistant": ({"role": "assistant"}, {"role": "assistant", "content": ""}),
    "content null of a tool": (
        {"role": "tool", "tool_call_id": "c1", "name": "", "content": None},
        {"role": "tool", "tool_call_id": "c1", "content": ""},
    ),
    "an empty user": ({"role": "user", "content": ""}, {"role": "user", "content": ""}),
    "an empty system": ({"role": "system", "content": " "}, {"role": "system", "content": " "}),
    "no parts": ({"role": "user", "content": []}, {"role": "user", "content": ""}),
    "an empty part": (
        {"role": "user", "content": [{"type": "text", "text": ""}, {"type": "text", "text": None}]},
        {"role": "user", "content": [{"type": "text", "text": ""}, {"type": "text", "text": ""}]},
    ),
    "a part that is a text": (
        {"role": "user", "content": ["a"]},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
    ),
    "NUL": (
        {"role": "tool", "tool_call_id": "c1", "content": r"a" + "\0b" + r"\u0000"},
        {"role": "tool", "tool_call_id": "c1", "content": "a\ufffdb" + r"\u0000"},
    ),
    "cache_control of a part": (
        {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}, "x": None}]},
        {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
    ),
    "an image by http": (
        part("image_url", {"url": "http://a.example/b.png", "detail": "original"}),
        part("image_url", {"url": "http://a.example/b.png", "detail": "original"}),
    ),
    "an image as a text": (
        part("image_url", "https://a.example/b.png"),
        part("image_url", {"url": "https://a.example/b.png"}),
    ),
    "image/jpg": (
        part("image_url", {"url": IMAGE.replace("jpeg", "jpg"), "detail": None}),
        part("image_url", {"url": IMAGE}),
    ),
    "input_audio": (part("input_audio", AUDIO), part("input_audio", AUDIO)),
    "a file": (
        part("file", {"file_data": "data:application/pdf;base64,JVBERg==", "filename": "a.pdf", "file_id": None}),
        part("file", {"file_data": "data:application/pdf;base64,JVBERg==", "filename": "a.pdf"}),
    ),
    "a video": (
        part("video_url", {"url": "https://a.example/b.mp4"}),
        part("video_url", {"url": "https://a.example/b.mp4"}),
    ),
    "an address in blanks": (
        part("image_url", {"url": " https://a.example/b.png\n", "detail": ""}),
        part("image_url", {"url": "https://a.example/b.png"}),
    ),
    "detail in capitals": (
        part("image_url", {"url": IMAGE, "detail": "High"}),
        part("image_url", {"url": IMAGE, "detail": "high"}),
    ),
    "a file at an address": (
        kept_file := part("file", {"file_data": "https://a.example/a.pdf", "file_url": "https://a.example/b.pdf"}),
        kept_file,
    ),
    "a file as a text": (
        part("file", {"file_data": "data:text/plain,h%C3%A9"}),
        part("file", {"file_data": "data:text/plain;base64,aMOp"}),
    ),
    "parts of the newer protocol": (
        {
            "role": "user",
            "content": [
                None,
                {"type": "input_text", "text": "a"},
                {"type": "output_text", "text": "b", "annotations": []},
                {"type": "input_image", "image_url": IMAGE, "detail": "auto"},
                {"type": "input_file", "file_id": "f1"},
                {"text": "c"},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "a"},
                {"type": "text", "text": "b"},
                {"type": "image_url", "image_url": {"url": IMAGE, "detail": "auto"}},
                {"type": "file", "file": {"file_id": "f1"}},
                {"type": "text", "text": "c"},
            ],
        },
    ),
    "an image of Anthropic": (
        part("image", None, source={"type": "base64", "media_type": "image/png", "data": IMAGE.partition(",")[2]}),
        part("image_url", {"url": IMAGE}),
    ),
    "parts of a provider": (
        thought := replayed(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]),
        thought,
    ),
    "a part without a list": (
        {"role": "user", "content": {"type": "text", "text": "a"}},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
    ),
    "many parts": (
        parts := {"role": "user", "content": [{"type": "text", "text": "a"}] * 300},
        parts,
    ),
    "a tool_call_id of no tool": (
        {"role": "user", "content": "a", "tool_call_id": "c1", "name": "Ann Lee " * 10},
        {"role": "user", "content": "a", "name": "Ann Lee " * 10},
    ),
    "an answer to continue": (
        prefixed := {"role": "assistant", "content": "so", "prefix": True, "partial": True},
        prefixed,
    ),
    "reasoning as objects": (
        objects := replayed(reasoning={"text": "hm"}, reasoning_details={"a": 1}),
        objects,
    ),
    "a call as the model made it up": (
        made_up := replayed(
            tool_calls=[{**CALL, "id": "c" * 3000, "function": {"name": "get the weather!", "arguments": "{"}}]
        ),
        made_up,
    ),
    "a call with numbers": (
        replayed(tool_calls=[{**CALL, "id": 7, "index": 0.0, "function": {"name": "f", "arguments": [1]}}]),
        replayed(tool_calls=[{**CALL, "id": "7", "index": 0, "function": {"name": "f", "arguments": "[1]"}}]),
    ),
    "a result with a number and an object": (
        {"role": "tool", "tool_call_id": 7, "content": {"a": 1}},
        {"role": "tool", "tool_call_id": "7", "content": '{"a":1}'},
    ),
    "arguments that were encoded twice": (
        replayed(tool_calls=[{**CALL, "function": {"name": "f", "arguments": '"{\\"a\\":1}"'}}]),
        replayed(tool_calls=[{**CALL, "function": {"name": "f", "arguments": '{"a":1}'}}]),
    ),
    "a refusal": (
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ),
}


@pytest.mark.parametrize(
    ("calls", "results", "ids"),
    [
        (["c1"], [{"name": "weather"}], ["c1"]),
        (["c1", "c2"], [{}, {}], ["c1", "c2"]),
        (["c1", "c2"], [{"tool_call_id": "c2"}, {"tool_call_id": None}], ["c2", "c1"]),
        ([""], [{"tool_call_id": ""}], [""]),
    ],
)
async def test_results_without_ids_get_those_of_their_calls(
    online: Api, upstream: FakeHuggingFace, calls: list[str], results: list[dict[str, Any]], ids: list[str]
) -> None:
    made = [{**CALL, "id": call_id} for call_id in calls]
    answers = [{"role": "tool", "content": "7", **result} for result in results]
    messages = [*HELLO, {"role": "assistant", "content": None, "tool_calls": made}, *answers]
    reply = await online.post(PATH, {"model": "default", "messages": messages})
    assert reply.status == 200, reply.json
    assert [message["tool_call_id"] for message in upstream.calls[0].body["messages"][2:]] == ids
    lone = await online.post(PATH, {"model": "default", "messages": [*HELLO, {"role": "tool", "content": "7"}]})
    assert (lone.status, lone.json["error"]["param"]) == (400, "messages.1")


async def test_calls_of_the_protocol_before_tools_are_tool_calls(online: Api, upstream: FakeHuggingFace) -> None:
    called = {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}}
    messages = [*HELLO, called, {"role": "function", "name": "weather", "content": "7"}]
    assert (await online.post(PATH, {"model": "default", "messages": messages})).status == 200
    _, call, result = upstream.calls[0].body["messages"]
    assert call["tool_calls"][0]["function"] == called["function_call"]
    assert (result["role"], result["tool_call_id"]) == ("tool", call["tool_calls"][0]["id"])


async def test_a_base_url_may_end_with_a_slash(online: Api, upstream: FakeHuggingFace) -> None:
    url = URL(f"{str(online.client.make_url('/')).rstrip('/')}/v1//chat/completions", encoded=True)
    headers = {"Authorization": f"Bearer {online.token}"}
    async with online.client.session.post(url, json={"model": "default", "messages": HELLO}, headers=headers) as reply:
        assert reply.status == 200
    assert len(upstream.calls) == 1


async def test_finish_reason_tool_calls_without_calls_is_stop(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(chat_answer("hi", finish="tool_calls"))
    reply = await online.post(PATH, {"model": "default", "messages": HELLO})
    assert reply.json["choices"][0]["finish_reason"] == "stop"


async def test_every_form_of_a_message_goes_upstream(online: Api, upstream: FakeHuggingFace) -> None:
    """Each as a turn of one conversation."""
    sent, expected = ([pair[which] for pair in MESSAGES.values()] for which in (0, 1))
    reply = await online.post(PATH, {"model": "default", "messages": [*HELLO, *sent]})
    assert reply.status == 200, reply.json
    _, *received = upstream.calls[0].body["messages"]
    assert dict(zip(MESSAGES, received, strict=True)) == dict(zip(MESSAGES, expected, strict=True))
    [stored] = (await online.get("/api/requests")).json
    assert stored["input_data"]["messages"][1:] == expected, "the history shows what was sent upstream"


async def test_a_stored_request_keeps_the_order_of_its_extra_fields(online: Api, upstream: FakeHuggingFace) -> None:
    """The first try fails, so that the call is made of the stored row again."""
    upstream.answer(Answer(503, {"Retry-After": "0"}))
    body = {"model": "default", "messages": HELLO, "guided_json": SCHEMA, "min_p": 0.1}
    assert (await online.post(PATH, body)).status == 200
    for call in upstream.calls:
        assert list(call.body["guided_json"]["properties"]) == ["zz", "a"]
        assert (call.body["min_p"], call.body["model"]) == (0.1, "org/model")
    assert len(upstream.calls) == 2


@pytest.mark.parametrize("field", ["guided_json", "tools", "messages"])
async def test_depth_is_limited_wherever_it_is(online: Api, upstream: FakeHuggingFace, field: str) -> None:
    deep: Any = "x"
    for _ in range(MAX_DEPTH):
        deep = [deep]
    reply = await online.post(PATH, {"model": "default", "messages": HELLO, field: deep})
    assert (reply.status, reply.json["error"]["type"]) == (400, "invalid_request_error")
    assert f"more than {MAX_DEPTH} levels" in reply.json["error"]["message"]
    assert upstream.calls == []


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({f"k{number}": number for number in range(MAX_MEMBERS + 1)}, "too many members"),
        ({"guided_json": {"maximum": 2**64}}, "must lie between"),
    ],
)
async def test_members_and_numbers_of_extra_fields_are_limited(
    online: Api, upstream: FakeHuggingFace, extra: dict[str, Any], words: str
) -> None:
    reply = await online.post(PATH, {"model": "default", "messages": HELLO, **extra})
    assert reply.status == 400
    assert words in reply.json["error"]["message"]
    assert upstream.calls == []


async def test_extra_fields_cannot_change_what_is_the_server_s(online: Api, upstream: FakeHuggingFace) -> None:
    """A call has the server's token and headers, and always streams."""
    sent = {"stream_options": {"include_usage": False}, "Authorization": "Bearer x", "stream": False}
    assert (await online.post(PATH, {"model": "default", "messages": HELLO, **sent})).status == 200
    [call] = upstream.calls
    assert (call.body["stream"], call.body["stream_options"]) == (True, {"include_usage": True})
    assert call.headers.get("Authorization") != "Bearer x"
    for name in ("models", "fallbacks", "api_key", "api_base", "base_url", "headers", "extra_headers"):
        reply = await online.post(PATH, {"model": "default", "messages": HELLO, name: ["x"]})
        assert (reply.status, reply.json["error"]["param"]) == (400, name)
        create = {"model_type": "chat", "input_data": {"messages": HELLO}, "parameters": {"extra": {name: ["x"]}}}
        reply = await online.post("/api/requests", create)
        assert (reply.status, reply.json["errors"][0]["field"]) == (422, "parameters.extra")
    assert len(upstream.calls) == 1


async def test_the_same_values_are_taken_on_api(online: Api, upstream: FakeHuggingFace) -> None:
    parameters = {"max_tokens": 131_072, "top_p": 0, "extra": {"min_p": 0.1}, "seed": 2**64 - 1}
    wanted: dict[str, Any] = {"max_tokens": 131_072, "top_p": 0, "min_p": 0.1}
    cases: list[tuple[Any, dict[str, Any]]] = [(parameters, wanted), (None, {}), ([], {})]
    for sent, expected in cases:
        create = {"model_type": "chat", "input_data": {"messages": [MESSAGES["reasoning"][0]]}, "parameters": sent}
        reply = await online.post("/api/requests", create)
        assert (reply.status, reply.json["status"]) == (200, "completed"), reply.json
        body = upstream.calls[-1].body
        assert expected.items() <= body.items()
        assert "extra" not in body
        assert body["messages"] == [MESSAGES["reasoning"][1]]
    unknown = {"messages": [{"role": "user", "content": "a", "parsed": 1}]}
    reply = await online.post("/api/requests", {"model_type": "chat", "input_data": unknown})
    assert reply.json["errors"][0]["field"] == "input_data.messages.0.parsed"


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # of the client, when it sends the answer back
async def test_openai_s_parsed_answer_is_sent_back(client: AsyncOpenAI, upstream: FakeHuggingFace) -> None:
    class Person(BaseModel):
        name: str
        age: int

    upstream.answer(chat_answer('{"name": "Ada", "age": 36}'), tool_answer(), chat_answer("ok"))
    messages: list[Any] = list(HELLO)
    parsed = await client.chat.completions.parse(model="default", messages=messages, response_format=Person)
    assert parsed.choices[0].message.parsed == Person(name="Ada", age=36)
    messages += [parsed.choices[0].message, *HELLO]
    strict: Any = {**WEATHER, "function": {**WEATHER["function"], "strict": True}}
    called = await client.chat.completions.parse(model="default", messages=messages, tools=[strict])
    messages.append(called.choices[0].message.model_dump())
    messages += [
        {"role": "tool", "tool_call_id": c.id, "content": ""} for c in called.choices[0].message.tool_calls or ()
    ]
    last = await client.chat.completions.create(model="default", messages=messages, parallel_tool_calls=False)
    assert last.choices[0].message.content == "ok"
    sent = upstream.calls[2].body["messages"]
    assert sent[1] == {"role": "assistant", "content": '{"name": "Ada", "age": 36}'}
    assert [call["function"] for call in sent[3]["tool_calls"]] == [
        {"name": "weather", "arguments": '{"place": "Oslo"}'},
        {"name": "now", "arguments": "{}"},
    ]
    assert sent[3]["reasoning_content"] == "Oslo, then."


async def test_openai_s_extra_body_goes_upstream(client: AsyncOpenAI, upstream: FakeHuggingFace) -> None:
    extra = {"top_k": 5, "chat_template_kwargs": {"enable_thinking": False}}
    await client.chat.completions.create(model="default", messages=[*HELLO], extra_body=extra)  # type: ignore[list-item]
    assert extra.items() <= upstream.calls[0].body.items()


async def test_hugging_face_s_tools_messages_and_formats_are_taken(online: Api, upstream: FakeHuggingFace) -> None:
    url = str(online.client.make_url("/v1"))
    upstream.answer(tool_answer())
    async with AsyncInferenceClient(base_url=url, token=online.token) as client:
        messages: list[Any] = list(HELLO)
        choice: Any = {"function": {"name": "weather"}}
        answer = await client.chat_completion(messages, tools=[WEATHER], tool_choice=choice)
        messages.append(answer.choices[0].message)
        messages += [
            {"role": "tool", "tool_call_id": call.id, "name": call.function.name, "content": ""}
            for call in answer.choices[0].message.tool_calls or ()
        ]
        response_format: Any = {"type": "json", "value": SCHEMA}
        await client.chat_completion(
            messages, response_format=response_format, extra_body={"min_p": 0.1}, top_p=0.0, max_tokens=65_536
        )
    first, second = (call.body for call in upstream.calls)
    assert first["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert second["response_format"] == named(SCHEMA)
    assert (second["min_p"], second["top_p"], second["max_tokens"]) == (0.1, 0, 65_536)
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "tool", "tool"]
    assert set(second["messages"][1]["tool_calls"][0]["function"]) == {"name", "arguments"}


def with_logprobs(*tokens: str) -> Answer:
    answer = deltas_answer(*({"content": token} for token in tokens))
    pieces = [
        event({"choices": [{"index": 0, "delta": {"content": token}, "logprobs": {"content": [_token(token)]}}]})
        for token in tokens
    ]
    return Answer(200, answer.headers, (*pieces, *answer.pieces[len(tokens) :]))


def _token(text: str) -> dict[str, Any]:
    return {"token": text, "logprob": -0.5, "bytes": None, "top_logprobs": []}


async def test_logprobs_are_returned_whole_and_streamed(client: AsyncOpenAI, upstream: FakeHuggingFace) -> None:
    upstream.answer(with_logprobs("a", "b"), with_logprobs("a", "b"), chat_answer("a"))
    whole = await client.chat.completions.create(model="default", messages=[*HELLO], logprobs=True)  # type: ignore[list-item]
    assert whole.choices[0].logprobs is not None
    assert [item.token for item in whole.choices[0].logprobs.content or ()] == ["a", "b"]
    async with client.chat.completions.stream(model="default", messages=[*HELLO], logprobs=True) as stream:  # type: ignore[list-item]
        streamed = await stream.get_final_completion()
    assert streamed.choices[0].logprobs is not None
    assert [item.token for item in streamed.choices[0].logprobs.content or ()] == ["a", "b"]
    without = await client.chat.completions.create(model="default", messages=[*HELLO])  # type: ignore[list-item]
    assert without.choices[0].logprobs is None


def text_answer(*texts: str) -> Answer:
    pieces = [event({"choices": [{"index": 0, "text": text}]}) for text in texts]
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    end = [
        event({"choices": [{"index": 0, "text": "", "finish_reason": "length"}], "usage": usage}),
        b"data: [DONE]\n\n",
    ]
    return Answer(200, {"Content-Type": "text/event-stream"}, (*pieces, *end))


async def test_a_text_completion_is_whole_or_streamed(
    client: AsyncOpenAI, online: Api, upstream: FakeHuggingFace
) -> None:
    upstream.answer(text_answer(" upon", " a"), text_answer(" upon", " a"))
    whole = await client.completions.create(
        model="default",
        prompt=["Once"],
        max_tokens=5,
        frequency_penalty=0.5,
        stop=[],
        suffix="end",
        best_of=1,
        user="u",
        extra_body={"min_p": 0.1, "top_k": -1},
    )
    assert (whole.object, whole.choices[0].text, whole.choices[0].finish_reason) == (
        "text_completion",
        " upon a",
        "length",
    )
    assert whole.usage is not None
    assert whole.usage.total_tokens == 5
    options: Any = {"include_usage": True}
    stream = await client.completions.create(model="default", prompt="Once", stream=True, stream_options=options)
    *chunks, last = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == " upon a"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert {(chunk.id, chunk.object) for chunk in chunks} == {(last.id, "text_completion")}
    assert (last.choices, last.usage and last.usage.total_tokens) == ([], 5)
    sent = upstream.calls[0].body
    expected = {"prompt": "Once", "max_tokens": 5, "frequency_penalty": 0.5, "suffix": "end", "min_p": 0.1, "top_k": -1}
    assert expected.items() <= sent.items()
    assert {"stop", "best_of", "user", "extra"}.isdisjoint(sent)
    newest, _ = (await online.get("/api/requests")).json
    assert (newest["model_type"], last.id) == ("text-generation", f"cmpl-{newest['id']}")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"best_of": 2}, "best_of"),
        ({"n": 2}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"echo": "yes"}, "echo"),
        ({"messages": HELLO}, "messages"),
    ],
)
async def test_a_fault_of_a_text_completion_has_the_client_s_name(api: Api, fields: dict[str, Any], param: str) -> None:
    reply = await api.post("/v1/completions", {"model": "default", "prompt": "Once", **fields})
    assert (reply.status, reply.json["error"]["param"]) == (400, param), reply.json


async def test_fields_of_embeddings_go_upstream(online: Api, upstream: FakeHuggingFace) -> None:
    upstream.answer(json_answer({"data": [{"index": 0, "embedding": [0.5]}]}))
    body = {"model": "default", "input": "a", "dimensions": 8, "input_type": "query", "user": "u", "metadata": {"a": 1}}
    reply = await online.post("/v1/embeddings", body)
    assert reply.status == 200, reply.json
    assert upstream.calls[0].body == {"input": "a", "dimensions": 8, "input_type": "query"}
