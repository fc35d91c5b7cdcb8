"""The OpenAPI document: valid, complete, and true to the routes, the models and the errors it describes."""

from collections.abc import Iterator
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # comes with the validator, without stubs
import orjson
import pytest
from aiohttp import web
from openapi_spec_validator import validate

from server.app import create_app
from server.catalog import MODEL_TYPES, ModelType
from server.errors import Code, Problem
from server.model_request import Status
from server.openapi.objects import RUNNING, ModelRequestObject
from server.openapi.problems import error_example, problem_classes
from server.schemas import render_record
from server.settings import Settings
from tests.fixtures.document import DOCUMENT


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


async def routes_of_the_app() -> set[tuple[str, str]]:
    """What the application answers to, without the parts of its pages and what aiohttp and CORS add.

    A coroutine, as the application is made where a loop runs.
    """
    app = create_app(Settings(_env_file=None), database_url="postgresql://nobody@127.0.0.1:1/none")
    return {
        (route.resource.canonical, route.method)
        for route in app.router.routes()
        if isinstance(route, web.ResourceRoute)
        and route.resource is not None
        and route.method not in {"HEAD", "OPTIONS"}
        and not route.resource.canonical.startswith("/console/")
    }


def check(value: Any, schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(value)


def test_document_is_valid_openapi_3_1() -> None:
    validate(DOCUMENT)


async def test_every_route_is_described_and_nothing_else() -> None:
    described = {(path, method) for path, method, _ in operations()}
    aliases = {(alias, method) for _, method, operation in operations() for alias in operation.get("x-aliases", ())}
    assert described.isdisjoint(aliases)
    assert described | aliases == await routes_of_the_app()


def test_operation_ids_are_unique() -> None:
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("problem", list(problem_classes()), ids=lambda problem: problem.__name__)
def test_every_error_has_an_example_that_keeps_the_error_shape(problem: type[Problem]) -> None:
    example = error_example(problem)
    check(example, {"$ref": "#/components/schemas/Problem"})
    shown = DOCUMENT["components"]["responses"][problem.__name__]["content"]["application/json"]["examples"]
    assert shown == {problem.__name__: {"value": example}}


def kinds_of(path: str, method: str, status: str) -> set[str]:
    """The errors that an operation shows for a status."""
    name = DOCUMENT["paths"][path][method]["responses"][status]["$ref"].rpartition("/")[2]
    return set(DOCUMENT["components"]["responses"][name]["content"]["application/json"]["examples"])


def test_an_operation_shows_only_errors_of_its_own() -> None:
    assert kinds_of("/api/auth/signin", "post", "422") == {"Invalid"}
    assert kinds_of("/api/requests", "post", "422") == {"Invalid", "KeyReused"}


def test_c2_a_refresh_is_503_beyond_its_rate_and_never_429() -> None:
    refresh, sign_in = (DOCUMENT["paths"][f"/api/auth/{name}"]["post"]["responses"] for name in ("refresh", "signin"))
    assert "429" in sign_in
    assert "429" not in refresh
    answer = DOCUMENT["components"]["responses"][refresh["503"]["$ref"].rpartition("/")[2]]
    assert "Retry-After" in answer["headers"]


def test_every_body_is_described() -> None:
    bare = {
        path.removeprefix("/api")
        for path, method, operation in operations()
        if method in {"POST", "PUT"} and "requestBody" not in operation
    }
    assert bare == {"/requests/{id}/cancel", "/auth/signout", "/auth/v1/logout"}, "these take none"


def test_the_page_at_the_root_may_be_unchanged() -> None:
    assert "304" in DOCUMENT["paths"]["/"]["get"]["responses"]


@pytest.mark.parametrize("name", ["Credentials", "SignIn", "Refresh", "Recovery"])
def test_every_field_of_an_account_body_is_described(name: str) -> None:
    fields = DOCUMENT["components"]["schemas"][name]["properties"]
    assert [field for field, schema in fields.items() if not schema.get("description")] == []


def test_every_code_and_status_word_is_listed() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert set(schemas["Code"]["enum"]) == set(Code)
    assert set(schemas["Status"]["enum"]) == set(Status)


def test_every_example_of_an_answer_fits_its_schema() -> None:
    checked = 0
    for _, _, operation in operations():
        for answer in operation["responses"].values():
            for content in answer.get("content", {}).values():
                for example in content.get("examples", {}).values():
                    check(example["value"], content["schema"])
                    checked += 1
    assert checked > len(list(operations()))


@pytest.mark.parametrize(
    "body",
    [
        {"model_type": "text2text", "input_data": {"prompt": "hi"}},
        {"model_type": "chat", "input_data": {"messages": [{"role": "user", "content": "hi"}]}},
        {"model_type": "text-generation", "input_data": {"prompt": "hi"}, "parameters": {"top_k": 5}},
    ],
)
def test_create_schema_takes_what_the_server_takes(body: dict[str, Any]) -> None:
    check(body, {"$ref": "#/components/schemas/CreateRequest"})


@pytest.mark.parametrize(
    "body",
    [
        {"model_type": "text2text"},
        {"model_type": "no-such-type", "input_data": {"prompt": "hi"}},
        {"model_type": "text2text", "input_data": {"prompt": "hi"}, "prompt": "hi"},
        {"model_type": "text2text", "input_data": {"prompt": "hi", "text": "hi"}},
        {"model_type": "text2text", "input_data": {"prompt": "hi"}, "parameters": {"top_k": 5}},
        {"model_type": "text2text", "input_data": {"prompt": "hi"}, "parameters": {"temperature": 3}},
    ],
)
def test_create_schema_refuses_what_the_server_refuses(body: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check(body, {"$ref": "#/components/schemas/CreateRequest"})


def test_create_body_has_a_schema_for_every_model_type() -> None:
    create = DOCUMENT["components"]["schemas"]["CreateRequest"]
    assert set(create["discriminator"]["mapping"]) == {name for row in MODEL_TYPES for name in row.names}
    assert len(create["oneOf"]) == len(MODEL_TYPES)


@pytest.mark.parametrize("row", MODEL_TYPES, ids=lambda row: row.name)
def test_each_model_type_has_examples_that_fit_its_schemas(row: ModelType) -> None:
    for name in row.names:
        body = {"model_type": name, "input_data": row.example.input_data, "parameters": row.example.parameters}
        check(body, {"$ref": "#/components/schemas/CreateRequest"})
    check(row.example.output_data, {"$ref": f"#/components/schemas/{row.output.__name__}"})
    assert row.example.output_data in DOCUMENT["components"]["schemas"][row.output.__name__]["examples"]


def test_a_required_parameter_makes_parameters_required() -> None:
    body = {"model_type": "zero-shot-classification", "input_data": {"text": "a"}}
    with pytest.raises(jsonschema.ValidationError):
        check(body, {"$ref": "#/components/schemas/CreateRequest"})


def test_no_schema_of_a_body_is_hidden_by_another_of_its_name() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert "role" in schemas["Message"]["properties"]
    bodies = {model for row in MODEL_TYPES for model in (row.input, row.parameters, row.output)}
    for model in bodies:
        assert set(schemas[model.__name__]["properties"]) == set(model.model_fields), model


def test_only_what_needs_no_token_is_described_as_public() -> None:
    public = {operation["operationId"] for _, _, operation in operations() if operation.get("security") == []}
    assert {"sign_up", "sign_in", "refresh", "recover", "health"} <= public
    assert public.isdisjoint({"create_request", "list_requests", "get_request", "delete_user", "sign_out"})


def test_the_public_object_is_described_in_the_order_in_which_it_is_rendered() -> None:
    row = RUNNING | {"processing_time": None, "input_data": None}
    rendered = orjson.loads(render_record(row))
    assert list(rendered) == list(ModelRequestObject.model_fields)


def test_a10_an_error_of_an_earlier_try_is_not_shown_without_an_error() -> None:
    row = RUNNING | {"processing_time": None, "input_data": None, "upstream_error": b'{"status": 429}'}
    assert orjson.loads(render_record(row | {"error_code": "MODEL_ERROR"}))["upstream_error"] == {"status": 429}
    assert orjson.loads(render_record(row))["upstream_error"] is None


@pytest.mark.parametrize("row", MODEL_TYPES, ids=lambda row: row.name)
def test_the_form_of_the_output_follows_from_the_model_type(row: ModelType) -> None:
    schema = {"$ref": "#/components/schemas/ModelRequest"}
    for name in row.names:
        check(RUNNING | {"model_type": name, "output_data": row.example.output_data}, schema)
        with pytest.raises(jsonschema.ValidationError):
            check(RUNNING | {"model_type": name, "output_data": {"of": "no model type"}}, schema)


def schemas_inside(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of a document that may be a schema."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from schemas_inside(inner)
    if isinstance(value, list):
        for inner in value:
            yield from schemas_inside(inner)


def test_generators_find_components_alone_and_no_defaults_in_objects() -> None:
    references = [schema["$ref"] for schema in schemas_inside(DOCUMENT) if isinstance(schema.get("$ref"), str)]
    assert {reference.count("/") for reference in references} == {3}, "a reference into a component is not understood"
    defaults = [schema for schema in schemas_inside(DOCUMENT["components"]["schemas"]) if "default" in schema]
    assert defaults == []
