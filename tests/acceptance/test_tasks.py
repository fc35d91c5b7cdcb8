"""Every model type over HTTP, answered by the offline double: what is sent, what comes back, and what is refused."""

import base64
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # comes with a validator, without stubs
import pytest

from server.catalog import MODEL_TYPES, ModelType
from tests.acceptance.conftest import Api
from tests.fixtures.document import DOCUMENT
from tests.fixtures.results import FLAC, PNG

FILES = {
    "image": f"data:image/png;base64,{base64.b64encode(PNG).decode()}",
    "audio": f"data:audio/flac;base64,{base64.b64encode(FLAC).decode()}",
}


def body_of(row: ModelType, name: str | None = None) -> dict[str, Any]:
    given = {field: FILES.get(field, value) for field, value in row.example.input_data.items()}
    return {"model_type": name or row.name, "input_data": given, "parameters": dict(row.example.parameters)}


@pytest.mark.parametrize("row", MODEL_TYPES, ids=lambda row: row.name)
async def test_the_example_of_every_model_type_is_answered_in_its_documented_form(api: Api, row: ModelType) -> None:
    for name in row.names:
        reply = await api.post("/api/requests", body_of(row, name))
        item = reply.json
        assert (reply.status, item["status"], item["model_type"]) == (200, "completed", name), item
        assert item["input_data"].items() >= body_of(row)["input_data"].items()
        output = item["output_data"]
        assert output["offline"] is True
        schema = {"$ref": f"#/components/schemas/{row.output.__name__}", "components": DOCUMENT["components"]}
        jsonschema.Draft202012Validator(schema).validate(output)
        for number, file in enumerate(output.get("files", ())):
            got = await api.get(f"/api/requests/{item['id']}/files/{number}")
            assert (got.headers["Content-Type"], len(got.body)) == (file["content_type"], file["size"])


async def test_a_conversation_with_tools_and_an_image_is_taken(api: Api) -> None:
    image = {"type": "image_url", "image_url": {"url": FILES["image"]}}
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
    ]
    schema = {"type": "object", "properties": {"zz": {}, "a": {}}}
    tool = {"type": "function", "function": {"name": "add", "parameters": schema}}
    parameters = {"tools": [tool], "tool_choice": "required"}
    body = {"model_type": "chat", "input_data": {"messages": messages}, "parameters": parameters}
    item = (await api.post("/api/requests", body)).json
    assert item["status"] == "completed", item
    [wanted] = item["output_data"]["tool_calls"]
    assert wanted["function"] == {"name": "add", "arguments": "{}"}


async def test_the_table_of_a_question_keeps_the_order_of_its_columns(api: Api) -> None:
    table = {"zebra": ["1"], "a": ["2"]}
    body = {"model_type": "table-question-answering", "input_data": {"question": "?", "table": table}}
    created = (await api.post("/api/requests", body)).json
    assert created["output_data"]["output"] == "1"
    again = (await api.get(f"/api/requests/{created['id']}")).json
    assert again["input_data"]["columns"] == ["zebra", "a"]
    assert again["input_data"]["table"] == table


@pytest.mark.parametrize(
    ("model_type", "input_data", "field"),
    [
        ("image-classification", {"image": "https://example.com/a.png"}, "input_data.image"),
        ("image-classification", {"image": FILES["audio"]}, "input_data.image"),
        ("zero-shot-classification", {"text": "a"}, "parameters.candidate_labels"),
        ("embeddings", {"text": ["a", ""]}, "input_data.text.1"),
        ("text-to-video", {"prompt": "a"}, "model_type"),
    ],
)
async def test_what_a_task_cannot_take_is_refused_by_name(
    api: Api, model_type: str, input_data: dict[str, Any], field: str
) -> None:
    reply = await api.post("/api/requests", {"model_type": model_type, "input_data": input_data})
    assert reply.status == 422
    assert field in {error["field"] for error in reply.json["errors"]}
