"""What can be asked for: model types by their names, and their models by settings."""

from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # comes with a validator, without stubs
import pytest

from server.catalog import MODEL_TYPES, OFFLINE_MODELS, ROUTER_CHAT_MODELS, ModelType
from server.inference.events import Task
from tests.fixtures.catalogs import TEXT, catalog, faults, kept

OFFLINE = {"inference_backend": "offline"}

OWN = {"hf_base_url": "http://localhost:11434/v1", "hf_api_token": None}


@pytest.mark.parametrize("name", ["text2text", "chat"])
def test_text_is_a_chat_completion(name: str) -> None:
    assert catalog().model_type(name).task is Task.CHAT_COMPLETION


@pytest.mark.parametrize(
    ("alias", "task"),
    [
        ("text-to-text", Task.CHAT_COMPLETION),
        ("embedding", Task.FEATURE_EXTRACTION),
        ("embeddings", Task.FEATURE_EXTRACTION),
        ("speech-to-text", Task.AUTOMATIC_SPEECH_RECOGNITION),
        *((task.value, task) for task in Task),
    ],
)
def test_every_task_goes_by_its_own_name_and_some_by_others(alias: str, task: Task) -> None:
    assert catalog().model_type(alias).task is task


def test_an_unknown_model_type_names_the_known_ones() -> None:
    found = faults("image2text")
    assert found["model_type"].startswith("must be one of chat-completion, text2text, chat, text-to-text, text-gen")


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


@pytest.mark.parametrize("row", MODEL_TYPES, ids=lambda row: row.name)
def test_every_task_has_a_chain_of_real_models(row: ModelType) -> None:
    chain = catalog().chain(row.name, None)
    assert chain
    assert not any(model.startswith("offline/") for model in chain)
    assert catalog(**OFFLINE).chain(row.name, None) == ("offline/echo",)
    assert catalog(**OWN).chain(row.name, None) == ()


def test_text_models_are_for_text_only() -> None:
    assert catalog(text_models="a/b").chain("embeddings", None) == catalog().chain("embeddings", None)


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


@pytest.mark.parametrize("row", MODEL_TYPES, ids=lambda row: row.name)
def test_the_example_of_every_model_type_works(row: ModelType) -> None:
    for name in row.names:
        input_data, parameters = kept(name, row.example.input_data, row.example.parameters)
        assert row.example.input_data.items() <= input_data.items()
        assert parameters == row.example.parameters
        assert kept(name, input_data, parameters) == (input_data, parameters)
    row.output.model_validate(row.example.output_data)


def test_the_edge_function_runs_text_only() -> None:
    edge = {
        "inference_backend": "edge",
        "hf_api_token": None,
        "supabase_url": "https://x.supabase.co",
        "supabase_anon_key": "sb_publishable_x",
        "supabase_service_role_key": "sb_secret_x",
        "database_url": "postgresql://x@127.0.0.1/x",
    }
    assert "edge function" in faults("embeddings", {"text": "a"}, **edge)["model_type"]
    assert catalog(**edge).check("chat", TEXT, {}, None)[0] == TEXT
    assert {row["task"] for row in catalog(**edge).describe()} == {"chat-completion", "text-generation"}


def test_the_catalog_describes_all_that_it_takes() -> None:
    rows = {row["model_type"]: row for row in catalog().describe()}
    assert set(rows) == {task.value for task in Task}
    assert rows["feature-extraction"]["aliases"] == ["embedding", "embeddings"]
    assert rows["chat-completion"]["models"] == list(ROUTER_CHAT_MODELS)
    for row in rows.values():
        assert row["input"]["properties"]
        assert row["input"]["additionalProperties"] is False
        jsonschema.Draft202012Validator(row["input"]).validate(row["example"]["input_data"])
        jsonschema.Draft202012Validator(row["parameters"]).validate(row["example"]["parameters"])
        jsonschema.Draft202012Validator(row["output"]).validate(row["example_output"])


def test_every_model_type_and_field_is_in_the_docs() -> None:
    page = (Path(__file__).parents[3] / "docs" / "tasks.md").read_text()
    for row in MODEL_TYPES:
        for name in row.names:
            assert f"`{name}`" in page
        for field in (*row.input.model_fields, *row.parameters.model_fields):
            assert f"`{field}`" in page, field
