"""Puts the parts together to one OpenAPI 3.1 document."""

from collections.abc import Iterator
from typing import Any

from server import __version__, errors
from server.errors import Problem
from server.openapi.accounts import ACCOUNTS
from server.openapi.files import FILES
from server.openapi.gotrue import GOTRUE
from server.openapi.models import MODELS
from server.openapi.openai import OPENAI, openai_schemas
from server.openapi.operation import Operation
from server.openapi.parts import JSON, component_headers, component_responses, error_answers
from server.openapi.requests import REQUESTS
from server.openapi.schemas import Schema, component_schemas, ref
from server.openapi.service import SERVICE
from server.openapi.streams import STREAMS

OPERATIONS: tuple[Operation, ...] = (
    *REQUESTS,
    *STREAMS,
    *FILES,
    *MODELS,
    *ACCOUNTS,
    *OPENAI,
    *SERVICE,
    *GOTRUE,
)
"""In the order in which a newcomer meets them."""

_DESCRIPTION = (
    "Model requests that are never lost: what was accepted is stored first, and ends exactly once. "
    "Sign up, send the token as `Authorization: Bearer …`, create a request, wait for the answer or come back for it."
)


def build_document() -> dict[str, Any]:
    """The description of everything this server answers to."""
    paths: dict[str, Schema] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _describe(operation)
    for operation in OPERATIONS:
        if operation.alias is not None:
            paths.setdefault(operation.alias, {})[operation.method] = _describe_alias(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "AI SDK Server",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "tags": [{"name": name} for name in dict.fromkeys(operation.tag for operation in OPERATIONS)],
        "paths": paths,
        "components": {
            "schemas": component_schemas() | openai_schemas(),
            "headers": component_headers(),
            "responses": component_responses(
                [*((problem,) for problem in problem_classes()), *(operation.problems for operation in OPERATIONS)]
            ),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def problem_classes() -> Iterator[type[Problem]]:
    """Every error that a caller can meet."""
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, Problem) and value is not Problem and name[0] != "_":
            yield value


def _describe(operation: Operation) -> Schema:
    described: Schema = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        # What the server answers by design comes before what an error of the same status would say.
        "responses": error_answers(operation.problems) | dict(operation.answers),
    }
    described["responses"] = dict(sorted(described["responses"].items()))
    if operation.description:
        described["description"] = operation.description
    if operation.parameters:
        described["parameters"] = list(operation.parameters)
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": {JSON: {"schema": ref(operation.body)}}}
    if operation.content is not None:
        content = {media: {"schema": schema} for media, schema in operation.content.items()}
        described["requestBody"] = {"required": True, "content": content}
    if operation.is_public:
        described["security"] = []
    return described


def _describe_alias(operation: Operation) -> Schema:
    return _describe(operation) | {"operationId": f"{operation.id}_alias", "x-alias-of": operation.path}
