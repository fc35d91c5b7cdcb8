"""Input and parameters of every model type: kept as they were sent, within their bounds, and each fault by its path."""

from typing import Any

import pytest

from server.catalog import MODEL_TYPES, ROUTER_CHAT_MODELS, ModelType, read_create
from server.errors import Invalid
from tests.fixtures.catalogs import TEXT, catalog, faults, kept


def accepts(parameters: dict[str, Any], *, name: str = "text2text") -> dict[str, Any]:
    return catalog().check(name, TEXT, parameters, None)[1]


def test_the_client_library_s_request_passes_as_it_is() -> None:
    assert catalog().check("text2text", TEXT, {}, None) == (TEXT, {}, ROUTER_CHAT_MODELS[0])


def test_what_a_model_or_a_tool_said_may_be_nothing() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": ""}}
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "", "tool_call_id": "c1"},
        {"role": "assistant", "content": ""},
    ]
    assert catalog().check("chat", {"messages": messages}, {}, None)[0] == {"messages": messages}


def test_messages_are_kept_as_they_were_sent() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hi\n"}]
    assert catalog().check("chat", {"messages": messages}, {}, None)[0] == {"messages": messages}


@pytest.mark.parametrize(
    ("input_data", "fields"),
    [
        ({}, {"input_data"}),
        ({"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, {"input_data"}),
        ({"prompt": ""}, {"input_data.prompt"}),
        ({"prompt": " \n\t"}, {"input_data.prompt"}),
        ({"prompt": 7}, {"input_data.prompt"}),
        ({"prompt": "a", "system": "b"}, {"input_data.system"}),
        ({"messages": []}, {"input_data.messages"}),
        ({"messages": "hi"}, {"input_data.messages"}),
        ({"messages": [{"role": "root", "content": "a"}]}, {"input_data.messages.0.role"}),
        ({"messages": [{"role": "tool", "content": "a"}]}, {"input_data.messages.0"}),
        ({"messages": [{"role": "user", "content": "a", "tool_call_id": "b"}]}, {"input_data.messages.0"}),
        ({"messages": [{"role": "user"}]}, {"input_data.messages.0.content"}),
        ({"messages": [{"role": "user", "content": None}]}, {"input_data.messages.0.content"}),
        ({"messages": [{"role": "user", "content": 7}]}, {"input_data.messages.0.content"}),
        ({"messages": [{"role": "user", "content": []}]}, {"input_data.messages.0.content"}),
        ({"messages": [{"role": "user", "content": [{}]}]}, {"input_data.messages.0.content.0"}),
        ({"messages": [{"role": "user", "content": [{"type": ["a"]}]}]}, {"input_data.messages.0.content.0"}),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]}]},
            {"input_data.messages.0.content.0.x"},
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "ftp://a/b"}}]}]},
            {"input_data.messages.0.content.0.image_url.url"},
        ),
        ({"messages": [{"role": "user", "content": "a", "surname": "b"}]}, {"input_data.messages.0.surname"}),
    ],
)
def test_wrong_input_is_named_by_its_path(input_data: Any, fields: set[str]) -> None:
    assert set(faults(input_data=input_data)) == fields


def test_raw_generation_takes_a_prompt_only() -> None:
    assert set(faults("text-generation", {"messages": []})) == {"input_data.prompt", "input_data.messages"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", 10_000_001),
        ("max_tokens", 1.0),
        ("max_tokens", True),
        ("max_tokens", "5"),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", "1"),
        ("temperature", True),
        ("temperature", float("nan")),
        ("top_p", -0.1),
        ("top_p", 1.1),
        ("seed", 2**64),
        ("seed", 1.5),
        ("frequency_penalty", 2.5),
        ("presence_penalty", -2.5),
        ("stop", ""),
        ("stop", []),
        ("stop", ["a"] * 65),
        ("stop", ["a" * 1001]),
        ("stop", 5),
        ("max_new_tokens", 5),
        ("nonsense", 1),
    ],
)
def test_a_wrong_parameter_is_named_by_its_path(name: str, value: Any) -> None:
    assert any(field.startswith(f"parameters.{name}") for field in faults(parameters={name: value}))


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_tokens": 1, "temperature": 0, "top_p": 1, "seed": -(2**63)},
        {"max_tokens": 10_000_000, "temperature": 2.0, "top_p": 0, "seed": 2**64 - 1},
        {"stop": ["\n"], "frequency_penalty": -2, "presence_penalty": 2},
        {"stop": ["a", "b", "c", "d"]},
    ],
)
def test_parameters_at_their_bounds_are_kept(parameters: dict[str, Any]) -> None:
    assert accepts(parameters) == parameters


def test_parameters_of_raw_generation_are_its_own() -> None:
    parameters = {"max_new_tokens": 5, "top_k": 3, "repetition_penalty": 1.1, "do_sample": False, "stop": ["x"]}
    assert accepts(parameters, name="text-generation") == parameters
    assert "parameters.max_tokens" in faults("text-generation", parameters={"max_tokens": 5})


def test_all_faults_are_found_at_once() -> None:
    found = faults(input_data={"prompt": ""}, parameters={"temperature": 9, "x": 1}, model="no/such")
    assert set(found) == {"input_data.prompt", "parameters.temperature", "parameters.x", "model"}


CREATE = {"model_type": "text2text", "input_data": TEXT}


def create_faults(body: Any) -> list[tuple[str, str]]:
    with pytest.raises(Invalid) as caught:
        read_create(catalog(), body)
    return [(error.field, error.message) for error in caught.value.errors]


def test_a_create_is_read_whole() -> None:
    body, input_data, parameters, model = read_create(catalog(), CREATE | {"parameters": {"seed": 1}, "deadline_s": 5})
    assert (body.model_type, body.deadline_s) == ("text2text", 5)
    assert (input_data, parameters, model) == (TEXT, {"seed": 1}, ROUTER_CHAT_MODELS[0])


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (
            CREATE
            | {"x": 1, "deadline_s": 0, "input_data": {"prompt": 7}, "parameters": {"seed": "a"}, "model": "a/b"},
            ["deadline_s", "x", "input_data.prompt", "parameters.seed", "model"],
        ),
        (CREATE | {"x": 1, "model_type": "nonsense"}, ["x", "model_type"]),
        (CREATE | {"model_type": 1, "input_data": {"prompt": 7}}, ["model_type"]),
        (CREATE | {"input_data": [], "parameters": {"seed": "a"}}, ["input_data", "parameters.seed"]),
        (CREATE | {"parameters": ["a"], "input_data": {}}, ["parameters", "input_data"]),
        (CREATE | {"parameters": None, "input_data": {}}, ["input_data"]),
        (CREATE | {"parameters": [], "x": 1}, ["x"]),
        ({"model_type": "text2text", "parameters": {"n": 1}}, ["input_data", "parameters.n"]),
        (CREATE | {"model": "", "input_data": {"prompt": 7}}, ["model", "input_data.prompt"]),
        (CREATE | {"x": 1}, ["x"]),
        (CREATE | {"parameters": {"n": 1}}, ["parameters.n"]),
        ({}, ["model_type", "input_data"]),
        ([CREATE], ["(body)"]),
    ],
)
def test_nothing_wrong_with_a_create_hides_anything_else(body: Any, fields: list[str]) -> None:
    assert [field for field, _ in create_faults(body)] == fields


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        (CREATE | {"input_data": []}, "input_data", "must be an object"),
        (CREATE | {"input_data": {}}, "input_data", "must have either prompt or messages"),
        (CREATE | {"input_data": {"prompt": ""}}, "input_data.prompt", "must have at least 1 character"),
        (CREATE | {"input_data": {"prompt": " "}}, "input_data.prompt", "must not be blank"),
        (CREATE | {"input_data": {"prompt": 1}}, "input_data.prompt", "must be a string"),
        (CREATE | {"input_data": {"messages": []}}, "input_data.messages", "must have at least 1 item"),
        (CREATE | {"input_data": {"messages": ["a"]}}, "input_data.messages.0", "must be an object"),
        (CREATE | {"model": "x" * 201}, "model", "must have at most 200 characters"),
        (CREATE | {"deadline_s": 0}, "deadline_s", "must be greater than or equal to 1"),
        (CREATE | {"deadline_s": "5"}, "deadline_s", "must be a number"),
        (CREATE | {"parameters": {"seed": 1.5}}, "parameters.seed", "must be a whole number"),
        (CREATE | {"parameters": {"stop": 5}}, "parameters.stop", "must be an array"),
        (CREATE | {"parameters": {"stop": ["a"] * 65}}, "parameters.stop", "must have at most 64 items"),
        (CREATE | {"parameters": {"top_p": float("nan")}}, "parameters.top_p", "must be a finite number"),
        (CREATE | {"x": 1}, "x", "is not a known field"),
        (CREATE | {"parameters": {"tools": [{"type": "custom"}]}}, "parameters.tools.0.type", "must be 'function'"),
        ({"model_type": "text2text"}, "input_data", "is required"),
    ],
)
def test_a_fault_is_told_in_words_for_people(body: Any, field: str, message: str) -> None:
    assert (field, message) in create_faults(body)


def test_a_role_that_is_none_names_those_that_are() -> None:
    [(_, message)] = create_faults(CREATE | {"input_data": {"messages": [{"role": "root", "content": "a"}]}})
    assert message == "must be 'system', 'developer', 'user', 'assistant' or 'tool'"


def test_messages_to_callers_are_short_and_do_not_quote_what_was_sent() -> None:
    for message in faults(input_data={"messages": "a" * 5000}, parameters={"stop": ["b" * 300]}).values():
        assert len(message) < 120
        assert "aaa" not in message
        assert "bbb" not in message


TOOL = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"zz": {}, "a": {}}}},
}

IMAGE = "data:image/png;base64,iVBORw0KGgo="

FILE_ID = "019ab0c4-5d1e-7c3a-9f20-3b1d2c4e5f60"


def test_a_conversation_with_tools_and_images_is_kept_as_it_was_sent() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    messages = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": IMAGE}}],
        },
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_call_id": "c1", "name": "add"},
    ]
    assert kept("chat", {"messages": messages})[0] == {"messages": messages}


def test_a_schema_is_kept_as_text_because_its_order_counts() -> None:
    schema = {"type": "object", "properties": {"zz": {"type": "string"}, "a": {"type": "string"}}}
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    _, parameters = kept("chat", TEXT, {"response_format": response_format, "tools": [TOOL], "tool_choice": "required"})
    text = parameters["response_format"]["json_schema"]["schema"]
    assert text == '{"type":"object","properties":{"zz":{"type":"string"},"a":{"type":"string"}}}'
    assert parameters["tools"][0]["function"]["parameters"] == '{"type":"object","properties":{"zz":{},"a":{}}}'


@pytest.mark.parametrize(
    ("parameters", "fields"),
    [
        ({"tool_choice": "required"}, {"parameters"}),
        ({"tool_choice": "maybe"}, {"parameters.tool_choice"}),
        ({"tool_choice": ["auto"]}, {"parameters.tool_choice"}),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "subtract"}}}, {"parameters"}),
        ({"tools": []}, {"parameters.tools"}),
        ({"tools": [{"type": "function", "function": {"name": "a" * 201}}]}, {"parameters.tools.0.function.name"}),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": "{}"}}]},
            {"parameters.tools.0.function.parameters"},
        ),
        ({"response_format": {"type": "json_schema"}}, {"parameters.response_format"}),
        ({"response_format": {"type": "an odd one"}}, {"parameters.response_format.type"}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            {"parameters.response_format.json_schema.schema"},
        ),
        ({"response_format": {"type": "regex"}}, {"parameters.response_format"}),
        ({"response_format": {"type": "text", "value": "a"}}, {"parameters.response_format"}),
        ({"reasoning_effort": "very much"}, {"parameters.reasoning_effort"}),
        ({"top_logprobs": 21}, {"parameters.top_logprobs"}),
        ({"extra": []}, {"parameters.extra"}),
        ({"extra": '{"min_p": 0.1}'}, {"parameters.extra"}),
        ({"extra": {"stream": False}}, {"parameters.extra"}),
        ({"extra": {"models": ["a/b"]}}, {"parameters.extra"}),
        ({"extra": {"temperature": 1}}, {"parameters.extra"}),
    ],
)
def test_wrong_tools_and_formats_are_named(parameters: dict[str, Any], fields: set[str]) -> None:
    assert set(faults(parameters=parameters)) == fields


@pytest.mark.parametrize("row", MODEL_TYPES, ids=lambda row: row.name)
def test_what_a_task_does_not_know_is_refused_by_name(row: ModelType) -> None:
    found = faults(row.name, {**row.example.input_data, "nonsense": 1}, {**row.example.parameters, "folly": 1})
    assert {"input_data.nonsense", "parameters.folly"} <= set(found)


@pytest.mark.parametrize(
    ("name", "sent", "input_data"),
    [
        ("summarization", {"inputs": "a"}, {"text": "a"}),
        ("text-generation", {"inputs": "a"}, {"prompt": "a"}),
        ("chat-completion", {"inputs": "a"}, {"prompt": "a"}),
        ("embeddings", {"inputs": ["a", "b"]}, {"text": ["a", "b"]}),
        ("embeddings", {"input": "a"}, {"text": "a"}),
        ("question-answering", {"inputs": {"question": "a", "context": "b"}}, {"question": "a", "context": "b"}),
        (
            "table-question-answering",
            {"inputs": {"query": "a", "table": {"b": ["1"]}}},
            {"question": "a", "table": {"b": ["1"]}, "columns": ["b"]},
        ),
        ("image-classification", {"inputs": IMAGE}, {"image": IMAGE}),
        ("image-classification", {"image": FILE_ID}, {"image": f"file:{FILE_ID}"}),
        ("image-classification", {"image": f"file:{FILE_ID.upper()}"}, {"image": f"file:{FILE_ID}"}),
    ],
)
def test_hugging_face_s_own_names_are_taken(name: str, sent: Any, input_data: Any) -> None:
    assert kept(name, sent)[0] == input_data


def test_the_order_of_the_columns_of_a_table_is_kept_beside_it() -> None:
    sent = {"question": "a", "table": {"b": ["1", "2"], "a": ["3", "4"]}}
    assert kept("table-question-answering", sent)[0]["columns"] == ["b", "a"]


@pytest.mark.parametrize(
    ("name", "sent", "fields"),
    [
        ("summarization", {"inputs": 1}, {"input_data.text"}),
        ("summarization", {"text": "a", "inputs": "b"}, {"input_data.inputs"}),
        ("summarization", {}, {"input_data.text"}),
        ("embeddings", {"text": []}, {"input_data.text"}),
        ("embeddings", {"text": ["a", ""]}, {"input_data.text.1"}),
        ("embeddings", {"text": ["a"] * 2049}, {"input_data.text"}),
        ("table-question-answering", {"question": "a", "table": {}}, {"input_data.table"}),
        ("table-question-answering", {"question": "a", "table": {"b": [1]}}, {"input_data.table.b.0"}),
        ("table-question-answering", {"question": "a", "table": {"b": ["1"], "c": []}}, {"input_data.table"}),
        ("table-question-answering", {"question": "a", "table": {"b": []}}, {"input_data.table"}),
        ("table-question-answering", {"question": "a", "table": {"b": ["1"]}, "columns": ["c"]}, {"input_data"}),
        ("image-classification", {"image": "https://a/b.png"}, {"input_data.image"}),
        ("image-classification", {"image": "data:audio/wav;base64,AAAA"}, {"input_data.image"}),
        ("image-classification", {"image": "data:image/png;base64,AAA"}, {"input_data.image"}),
        ("speech-to-text", {"audio": "data:audio/wav;base64,"}, {"input_data.audio"}),
        ("speech-to-text", {"audio": "file:17"}, {"input_data.audio"}),
    ],
)
def test_wrong_input_of_other_tasks_is_named_by_its_path(name: str, sent: Any, fields: set[str]) -> None:
    assert set(faults(name, sent)) == fields


@pytest.mark.parametrize("value", [1, 2.0, "sentence", ["word"], {}])
def test_timestamps_that_are_none_are_one_fault_of_their_field(value: Any) -> None:
    found = faults("speech-to-text", {"audio": FILE_ID}, {"return_timestamps": value})
    assert found == {"parameters.return_timestamps": "must be true, false, 'word' or 'char'"}


def test_zero_shot_classification_needs_labels() -> None:
    assert faults("zero-shot-classification", {"text": "a"}) == {"parameters.candidate_labels": "is required"}


def test_t9_the_extra_content_of_a_call_is_kept() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    call["extra_content"] = {"google": {"thought_signature": "c2ln", "more": None}}
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_call_id": "c1"},
    ]
    assert kept("chat", {"messages": messages})[0] == {"messages": messages}
