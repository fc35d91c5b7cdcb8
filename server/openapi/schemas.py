"""The schemas of the document: the components of models, and a variant of some for each model type."""

from collections.abc import Iterable

import orjson
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from server.catalog import MODEL_TYPES, ModelType
from server.openapi.objects import ModelRequestObject
from server.openapi.parts import REF, Schema, ref
from server.schemas import CreateRequest


class _PlainSchemas(GenerateJsonSchema):
    """No titles of fields: they repeat the names. No defaults: generators take a field with one as required."""

    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002 - the same for every field
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])


def component_schemas(models: Iterable[type[BaseModel]]) -> dict[str, Schema]:
    """The schemas of these models and of all that they hold, by name; with those of the catalog."""
    every: dict[type[BaseModel], None] = dict.fromkeys((*models, CreateRequest, ModelRequestObject))
    for row in MODEL_TYPES:
        every |= dict.fromkeys((row.input, row.parameters, row.output))
    _, generated = models_json_schema(
        [(model, "validation") for model in every], ref_template=REF + "{model}", schema_generator=_PlainSchemas
    )
    schemas: dict[str, Schema] = orjson.loads(orjson.dumps(generated["$defs"]).replace(b'Object"', b'"'))
    create, shown = schemas.pop("CreateRequest"), schemas.pop("ModelRequest")
    creates = {f"Create{_spoken(row)}": _create(create, row) for row in MODEL_TYPES}
    requests = {f"{_spoken(row)}ModelRequest": _shown(shown, row) for row in MODEL_TYPES}
    for row in MODEL_TYPES:
        schemas[row.output.__name__].setdefault("examples", []).append(row.example.output_data)
    about = "The fields of input_data and parameters depend on model_type. Unknown fields are refused."
    bodies = [schema["examples"][0] for schema in creates.values()]
    return {
        **schemas,
        **creates,
        **requests,
        "CreateRequest": _union(about, creates) | {"examples": [bodies[0] | {"model_type": "text2text"}, *bodies]},
        "ModelRequest": _union(shown["description"], requests),
    }


def _spoken(row: ModelType) -> str:
    return "".join(word.capitalize() for word in row.name.split("-"))


def _union(description: str, variants: dict[str, Schema]) -> Schema:
    mapping = {name: REF + variant for variant, row in zip(variants, MODEL_TYPES, strict=True) for name in row.names}
    return {
        "description": description,
        "oneOf": [ref(variant) for variant in variants],
        "discriminator": {"propertyName": "model_type", "mapping": mapping},
    }


def _create(base: Schema, row: ModelType) -> Schema:
    """The create body for one model type: what input and parameters may hold depends on it."""
    example = {"model_type": row.name, "input_data": row.example.input_data, "parameters": row.example.parameters}
    fields = {"input_data": ref(row.input.__name__), "parameters": ref(row.parameters.__name__)}
    needs_parameters = any(field.is_required() for field in row.parameters.model_fields.values())
    return _variant(base, row, fields) | {
        "title": f"Create{_spoken(row)}",
        "description": f"{row.description} The answer's output_data is {row.output.__name__}.",
        "required": [*base["required"], *(["parameters"] if needs_parameters else [])],
        "examples": [{name: value for name, value in example.items() if value}],
    }


def _shown(base: Schema, row: ModelType) -> Schema:
    """The public object for one model type, with its form of output."""
    output = {
        "description": base["properties"]["output_data"]["description"],
        "anyOf": [ref(row.output.__name__), {"type": "null"}],
    }
    return _variant(base, row, {"output_data": output}) | {
        "title": f"{_spoken(row)}ModelRequest",
        "description": row.description,
    }


def _variant(base: Schema, row: ModelType, fields: dict[str, Schema]) -> Schema:
    name: Schema = {"enum": [*row.names]} if row.aliases else {"const": row.name}
    return base | {"properties": base["properties"] | fields | {"model_type": {"type": "string"} | name}}
