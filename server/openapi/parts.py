"""The parts of operations: answers, parameters, and references to components."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from server.openapi.objects import example_of

Schema = dict[str, Any]
Model = type[BaseModel]
"""A model in a description is the component of that name."""

JSON = "application/json"
EVENTS = "text/event-stream"
REF = "#/components/schemas/"
TEXT: Schema = {"type": "string"}
UUID: Schema = {"type": "string", "format": "uuid"}
BINARY: Schema = {"type": "string", "format": "binary"}


def ref(name: str) -> Schema:
    return {"$ref": REF + name}


@dataclass(frozen=True, slots=True)
class Content:
    schema: Model | Schema
    examples: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer by design. `content` is by media type; `headers` are those that not every answer has."""

    description: str
    content: Mapping[str, Content]
    headers: tuple[str, ...]


def json_answer(
    description: str, schema: Model | Schema, *headers: str, examples: Mapping[str, Any] | None = None
) -> Answer:
    """Without examples it shows the one that the model's fields make."""
    if examples is None:
        examples = {"example": example_of(schema)} if isinstance(schema, type) else {}
    return Answer(description, {JSON: Content(schema, examples)}, headers)


def text_answer(description: str, media_type: str, *, example: str | None = None) -> Answer:
    return Answer(description, {media_type: Content(TEXT, {} if example is None else {"stream": example})}, ())


def binary_answer(description: str, *headers: str) -> Answer:
    """An answer whose body is a file."""
    media_types = ("image/*", "audio/*", "video/*", "application/octet-stream")
    return Answer(description, {media_type: Content(BINARY, {}) for media_type in media_types}, headers)


def empty_answer(description: str, *headers: str) -> Answer:
    return Answer(description, {}, headers)


def header_refs(*names: str) -> dict[str, Schema]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-Id", *names)}


def query(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def header(name: str, description: str, schema: Schema = TEXT) -> Schema:
    return {"name": name, "in": "header", "description": description, "schema": schema}


def path(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "path", "required": True, "description": description, "schema": schema}


REQUEST_ID = path("id", "The request's id.", UUID)
IDEMPOTENCY_KEY = header(
    "Idempotency-Key",
    "Makes a repeated call safe: the same key with the same body gives the same request, for 24 hours.",
    TEXT | {"minLength": 1, "maxLength": 255},
)
