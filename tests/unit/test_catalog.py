"""What can be asked for: models by settings, and input and parameters within their bounds."""

from typing import Any

import pytest

from server.catalog import OFFLINE_MODELS, ROUTER_CHAT_MODELS, Catalog, read_create
from server.errors import Invalid
from server.inference.events import Task
from server.settings import Settings

TEXT = {"prompt": "Hello"}


def catalog(**settings: Any) -> Catalog:
    return Catalog(Settings(_env_file=None, **{"hf_api_token": "hf_x", **settings}))


OFFLINE = {"inference_backend": "offline"}
OWN = {"hf_base_url": "http://localhost:11434/v1", "hf_api_token": None}


def faults(
    name: str = "text2text", input_data: Any = None, parameters: Any = None, model: str | None = None, **settings: Any
) -> dict[str, str]:
    with pytest.raises(Invalid) as caught:
        catalog(**settings).check(name, TEXT if input_data is None else input_data, parameters or {}, model)
    return {error.field: error.message for error in caught.value.errors}


def accepts(parameters: dict[str, Any], *, name: str = "text2text") -> dict[str, Any]:
    return catalog().check(name, TEXT, parameters, None)[1]


@pytest.mark.parametrize("name", ["text2text", "chat"])
def test_text_is_a_chat_completion(name: str) -> None:
    assert catalog().model_type(name).task is Task.CHAT_COMPLETION


def test_an_unknown_model_type_names_the_known_ones() -> None:
    assert faults("image2text") == {"model_type": "must be one of text2text, chat, text-generation"}


def test_the_client_library_s_request_passes_as_it_is() -> None:
    assert catalog().check("text2text", TEXT, {}, None) == (TEXT, {}, ROUTER_CHAT_MODELS[0])


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
        ({"prompt": "a" * 200_001}, {"input_data.prompt"}),
        ({"prompt": "a", "system": "b"}, {"input_data.system"}),
        ({"messages": []}, {"input_data.messages"}),
        ({"messages": "hi"}, {"input_data.messages"}),
        ({"messages": [{"role": "tool", "content": "a"}]}, {"input_data.messages.0.role"}),
        ({"messages": [{"role": "user"}]}, {"input_data.messages.0.content"}),
        ({"messages": [{"role": "user", "content": [{}]}]}, {"input_data.messages.0.content"}),
        ({"messages": [{"role": "user", "content": "a", "name": "b"}]}, {"input_data.messages.0.name"}),
        ({"messages": [{"role": "user", "content": "a"}] * 501}, {"input_data.messages"}),
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
        ("max_tokens", 32_769),
        ("max_tokens", 1.0),
        ("max_tokens", True),
        ("max_tokens", "5"),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", "1"),
        ("temperature", True),
        ("temperature", float("nan")),
        ("top_p", 0),
        ("top_p", 1.1),
        ("seed", 2**63),
        ("seed", 1.5),
        ("frequency_penalty", 2.5),
        ("presence_penalty", -2.5),
        ("stop", ""),
        ("stop", []),
        ("stop", ["a"] * 5),
        ("stop", ["a" * 201]),
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
        {"max_tokens": 32_768, "temperature": 2.0, "top_p": 0.01, "seed": 2**63 - 1},
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
        (CREATE | {"parameters": None, "input_data": {}}, ["parameters", "input_data"]),
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
        (CREATE | {"parameters": {"stop": ["a"] * 5}}, "parameters.stop", "must have at most 4 items"),
        (CREATE | {"parameters": {"top_p": float("nan")}}, "parameters.top_p", "must be a finite number"),
        (CREATE | {"x": 1}, "x", "is not a known field"),
        ({"model_type": "text2text"}, "input_data", "is required"),
    ],
)
def test_a_fault_is_told_in_words_for_people(body: Any, field: str, message: str) -> None:
    assert (field, message) in create_faults(body)


def test_a_role_that_is_none_names_those_that_are() -> None:
    [(_, message)] = create_faults(CREATE | {"input_data": {"messages": [{"role": "root", "content": "a"}]}})
    assert message == "must be 'system', 'developer', 'user' or 'assistant'"


def test_messages_to_callers_are_short_and_do_not_quote_what_was_sent() -> None:
    for message in faults(input_data={"prompt": "a" * 200_001}, parameters={"stop": ["b" * 300]}).values():
        assert len(message) < 120
        assert "aaa" not in message
        assert "bbb" not in message


def test_a_chain_starts_at_the_model_that_was_asked_for() -> None:
    first, second, third = ROUTER_CHAT_MODELS
    assert catalog().chain("text2text", None) == (first, second, third)
    assert catalog().chain("text2text", second) == (second, third)
    assert catalog().chain("text2text", "a/b") == ("a/b",)


def test_the_operator_s_models_replace_the_default() -> None:
    assert catalog(text_models="a/b, c/d").chain("chat", None) == ("a/b", "c/d")


def test_a_server_of_one_s_own_says_itself_what_it_has() -> None:
    assert catalog(**OWN).chain("text2text", None) == ()
    assert catalog(**OWN).check("text2text", TEXT, {}, None)[2] is None


def test_offline_has_its_own_models_and_no_others() -> None:
    offline = catalog(**OFFLINE)
    assert offline.chain("text2text", None) == ("offline/echo",)
    for model in OFFLINE_MODELS:
        assert offline.check("text2text", TEXT, {}, model)[2] == model
    assert "model" in faults(model="openai/gpt-oss-20b:fastest", allowed_models="*", **OFFLINE)


def test_no_chain_of_real_models_holds_an_offline_one() -> None:
    for name in ("text2text", "chat", "text-generation"):
        assert not any(model.startswith("offline/") for model in catalog().chain(name, None))


@pytest.mark.parametrize(
    ("settings", "model", "is_allowed"),
    [
        ({}, ROUTER_CHAT_MODELS[1], True),
        ({}, "a/b", False),
        ({"allowed_models": "a/b"}, "a/b", True),
        ({"allowed_models": "a/b"}, "a/c", False),
        ({"allowed_models": "*"}, "a/b:groq", True),
        ({"allowed_models": "*"}, "no-slash", False),
        ({"allowed_models": "*"}, "../..", False),
        ({"allowed_models": "*"}, "a/b\n", False),
        ({"allowed_models": "*"}, "a/b?x", False),
        ({"allowed_models": "*", **OWN}, "llama3.2:latest", True),
        ({"allowed_models": "*", **OWN}, "org/x", True),
        ({"allowed_models": "*", **OWN}, "a b", False),
        (OWN, "llama3.2:latest", False),
    ],
)
def test_a_model_can_be_named_as_far_as_the_operator_allows(
    settings: dict[str, Any], model: str, *, is_allowed: bool
) -> None:
    if is_allowed:
        assert catalog(**settings).check("text2text", TEXT, {}, model)[2] == model
    else:
        assert set(faults(model=model, **settings)) == {"model"}
