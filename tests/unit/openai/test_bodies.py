"""Bodies of OpenAI's protocol as creates of ours, and final requests as its objects."""

import base64
import struct
from typing import Any
from uuid import UUID

import pytest

from server.errors import FieldError, Invalid, ModelFailed, NotFound
from server.model_request import mint_id
from server.openai.chat import NOT_SUPPORTED, ONLY, PASSED_ON, WITHOUT_EFFECT, completion, read_chat
from server.openai.embeddings import embedding_list, read_embeddings
from server.openai.models import model_list
from server.openai.outcome import created_of, usage_of

HELLO = [{"role": "user", "content": "hello"}]
ID = UUID("019ab0c4-5d1e-7c3a-9f20-3b1d2c4e5f60")
CALL = {"id": "fc_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}


def outcome(**output: Any) -> dict[str, Any]:
    return {"model": "org/model", "output_data": {"output": "", **output}, "token_used": 8, "token_count": 5}


def test_what_the_catalog_knows_is_handed_to_it() -> None:
    given: dict[str, Any] = dict.fromkeys(PASSED_ON, "judged by the catalog")
    given["response_format"] = {"type": "judged by the catalog"}
    given["tool_choice"] = {"type": "function", "function": {"name": "judged by the catalog"}}
    ask = read_chat({"model": "org/model", "messages": HELLO, **given})
    assert ask.create == {
        "model_type": "chat-completion",
        "model": "org/model",
        "input_data": {"messages": HELLO},
        "parameters": given,
    }


@pytest.mark.parametrize("model", ["default", "tgi", "dummy", "http://localhost:3000/v1"])
def test_some_names_stand_for_the_models_of_the_server(model: str) -> None:
    assert "model" not in read_chat({"model": model, "messages": HELLO}).create


def test_null_says_nothing() -> None:
    names = (*PASSED_ON, *ONLY, *NOT_SUPPORTED, *WITHOUT_EFFECT, "stream", "stream_options", "max_completion_tokens")
    ask = read_chat({"model": "default", "messages": HELLO, **dict.fromkeys(names)})
    assert ask.create["parameters"] == {}
    assert (ask.is_streamed, ask.wants_usage) == (False, False)


def test_what_asks_for_nothing_special_is_taken_without_effect() -> None:
    ordinary = {name: values[0] for name, values in ONLY.items()} | dict.fromkeys(WITHOUT_EFFECT, "x")
    empty = dict.fromkeys(NOT_SUPPORTED, 0)
    assert read_chat({"model": "default", "messages": HELLO, **ordinary, **empty}).create["parameters"] == {}


@pytest.mark.parametrize(
    ("include_usage", "wanted"), [(True, True), (False, False), (None, False)], ids=["asked", "declined", "null"]
)
def test_usage_of_a_stream_is_for_those_who_ask(include_usage: object, *, wanted: bool) -> None:
    body = {"model": "m", "messages": HELLO, "stream": True, "stream_options": {"include_usage": include_usage}}
    assert read_chat(body).wants_usage is wanted


def test_an_answer_that_is_sent_back_loses_unknown_fields_and_keeps_its_reasoning() -> None:
    answer = {
        "role": "assistant",
        "content": None,
        "reasoning_content": "hm",
        "parsed": {"a": 1},
        "refusal": None,
        "annotations": [],
        "audio": None,
        "tool_calls": [CALL],
    }
    asked = {"role": "user", "content": None, "refusal": None}
    sent = read_chat({"model": "m", "messages": [answer, asked]}).create["input_data"]["messages"]
    assert sent == [
        {"role": "assistant", "reasoning_content": "hm", "tool_calls": [CALL]},
        {"role": "user", "content": ""},
    ]


def test_every_fault_of_the_create_has_the_name_that_the_client_gave_it() -> None:
    ask = read_chat({"model": "m", "messages": HELLO, "max_completion_tokens": 0})
    paths = ["parameters.max_tokens", "parameters.tools.0.type", "input_data.messages.0.role", "parameters"]
    refusal = ask.refusal(Invalid("wrong", errors=[FieldError(path, "is wrong") for path in paths]))
    assert [error.field for error in refusal.errors] == [
        "max_completion_tokens",
        "tools.0.type",
        "messages.0.role",
        "(body)",
    ]


def test_a_model_that_is_not_offered_is_not_there() -> None:
    ask = read_chat({"model": "gpt-4o", "messages": HELLO})
    refusal = ask.refusal(Invalid("wrong", errors=[FieldError("model", "is not one that this server offers")]))
    assert isinstance(refusal, NotFound)
    assert "'gpt-4o'" in refusal.detail


@pytest.mark.parametrize("body", [None, [], "text", 3, {}, {"model": "m"}, {"messages": HELLO}])
def test_what_is_no_body_is_refused(body: object) -> None:
    with pytest.raises(Invalid):
        read_chat(body)
    with pytest.raises(Invalid):
        read_embeddings(body)


def test_a_completion_says_when_its_request_was_made() -> None:
    made = completion(ID, outcome(output="hi", finish_reason="stop"))
    assert made["created"] == created_of(ID) == 0x019AB0C45D1E // 1000
    assert created_of(mint_id()) > 1_700_000_000


def test_calls_without_an_id_get_one_of_their_own_that_never_changes() -> None:
    nameless = [{**CALL, "id": ""}, {"type": "function", "function": CALL["function"]}, CALL]
    first, second = (completion(ID, outcome(tool_calls=nameless)) for _ in range(2))
    ids = [call["id"] for call in first["choices"][0]["message"]["tool_calls"]]
    assert first == second
    assert ids == [f"call_{ID.hex}0", f"call_{ID.hex}1", "fc_1"]


@pytest.mark.parametrize(
    ("output", "content", "reason"),
    [
        ({"output": "hi", "finish_reason": "stop"}, "hi", "stop"),
        ({"output": "hi", "finish_reason": "length"}, "hi", "length"),
        ({"output": "hi", "finish_reason": None}, "hi", "stop"),
        ({"output": "", "finish_reason": "stop"}, "", "stop"),
        ({"output": "", "finish_reason": "stop", "tool_calls": [CALL]}, None, "tool_calls"),
        ({"output": "so", "finish_reason": None, "tool_calls": [CALL]}, "so", "tool_calls"),
        ({"output": "", "finish_reason": "length", "tool_calls": [CALL]}, None, "length"),
    ],
)
def test_why_an_answer_ends_is_told_as_it_is(output: dict[str, Any], content: str | None, reason: str) -> None:
    [choice] = completion(ID, outcome(**output))["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (content, reason)


@pytest.mark.parametrize(("used", "generated"), [(None, 5), (8, None), (None, None)])
def test_half_known_usage_is_unknown(used: int | None, generated: int | None) -> None:
    assert usage_of({"token_used": used, "token_count": generated}) is None


def test_vectors_are_packed_as_little_endian_floats() -> None:
    listed = embedding_list(outcome(embeddings=[[0.25, -1.5]]), is_base64=True)
    assert struct.unpack("<2f", base64.b64decode(listed["data"][0]["embedding"])) == (0.25, -1.5)


def test_one_vector_and_many_are_both_lists() -> None:
    one = embedding_list(outcome(embedding=[0.5]), is_base64=False)
    many = embedding_list(outcome(embeddings=[[0.5], [1.0]]), is_base64=False)
    assert [item["embedding"] for item in one["data"]] == [[0.5]]
    assert [item["embedding"] for item in many["data"]] == [[0.5], [1.0]]
    assert one["usage"] == {"prompt_tokens": 8, "total_tokens": 8}


def test_vectors_of_tokens_are_no_embedding() -> None:
    with pytest.raises(ModelFailed, match="every token"):
        embedding_list(outcome(token_embeddings=[[[0.5]]]), is_base64=False)


def test_a_model_is_listed_once_and_the_default_first() -> None:
    listed = model_list(["org/a", "plain", "org/a"])["data"]
    assert [(model["id"], model["owned_by"]) for model in listed] == [
        ("default", "system"),
        ("org/a", "org"),
        ("plain", "system"),
    ]
