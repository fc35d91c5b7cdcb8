"""Puts the parts together to one OpenAPI 3.1 document."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from server import __version__, errors
from server.auth.gotrue.error_form import PREFIX as GOTRUE_PREFIX
from server.auth.principal import SCOPES
from server.errors import Problem
from server.http.credentials import API_KEY
from server.http.marks import marks_of
from server.openai import PREFIX as OPENAI_PREFIX
from server.openapi.compatible_objects import GoTrueError, OpenAIError
from server.openapi.objects import ProblemObject
from server.openapi.operation import Operation, Route
from server.openapi.parts import JSON, Answer, Schema, header_refs, json_answer, ref
from server.openapi.problems import component_responses, error_answers, problem_classes
from server.openapi.schemas import component_schemas

HEADERS = {
    "X-Request-Id": "Names this exchange in the server's logs; taken over from the call where it sent one.",
    "RateLimit": "The rest of the limit that was applied, and the seconds until it is whole again.",
    "RateLimit-Policy": "The limit that was applied, and its window in seconds.",
    "Retry-After": "Seconds to wait before trying again.",
    "Location": "Where the request, or the file, can be read from now on.",
    "ETag": "Changes with what the answer shows.",
    "Link": 'The next page, as `<…>; rel="next"`; missing on the last page.',
    "Preference-Applied": "The preferences of the Prefer header that were followed.",
    "Accept-Ranges": "bytes: parts of the file can be asked for.",
    "Content-Length": "How many bytes the body has.",
    "Content-Range": "Which bytes of how many these are.",
    "Content-Disposition": "A name for the file.",
    "Content-Security-Policy": "Nothing in the file may run in a browser.",
    "Idempotent-Replayed": "true where an earlier call with this Idempotency-Key had created the request.",
    "WWW-Authenticate": "How to authenticate.",
    "Allow": "The methods that this path answers to.",
    "Vary": "The answer depends on these headers.",
}
_DESCRIPTION = (
    "Model requests that are never lost: what was accepted is stored first, and ends exactly once. "
    "Sign up, send the token as `Authorization: Bearer …`, create a request, wait for the answer or come back for it. "
    "Programs send an API key instead, in the same header or as `X-Api-Key`. "
    "Every path below `/api` is there without that prefix, too (`x-aliases`)."
)
_SCOPES = "; ".join(f"`{scope}`: {allowed}" for scope, allowed in SCOPES.items())
_KEY_SCHEMES: dict[str, Schema] = {
    "api_key": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "ask_…",
        "description": f"An API key. An operation names the scope that the key needs ({_SCOPES}).",
    },
    "api_key_header": {
        "type": "apiKey",
        "in": "header",
        "name": API_KEY,
        "description": "The same key in a header of its own.",
    },
}
_SECURITY_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "The access token of a user, who has all scopes.",
    },
    **_KEY_SCHEMES,
}
_BODY = (errors.BadSyntax, errors.BodyTimeout, errors.BodyTooLarge, errors.UnsupportedMedia)
_OTHER_SHAPES = {
    OPENAI_PREFIX: {
        "4XX": json_answer("Refused.", OpenAIError, "Retry-After"),
        "5XX": json_answer(
            "500 a bug of ours, 502 the model failed, 503 come back later, 504 the model was too slow.",
            OpenAIError,
            "Retry-After",
        ),
    },
    GOTRUE_PREFIX: {"4XX": json_answer("Refused; the older form without `X-Supabase-Api-Version`.", GoTrueError)},
}
"""Errors below these prefixes have a shape of their own, and are not told apart by status."""


def build_document(routes: Iterable[Route]) -> dict[str, Any]:
    """The description of these routes."""
    described = [(route, route.operation) for route in routes if route.operation is not None]
    paths: dict[str, Schema] = {}
    for route, operation in described:
        paths.setdefault(_template(route.path), {})[route.method.lower()] = _describe(route, operation)
    problem_sets = [*((kind,) for kind in problem_classes()), *(_problems(*one) for one in described)]
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
        "tags": [{"name": name} for name in dict.fromkeys(route.tag for route, _ in described)],
        "paths": paths,
        "components": {
            "schemas": component_schemas((ProblemObject, *_models(described))),
            "headers": {name: {"description": text, "schema": {"type": "string"}} for name, text in HEADERS.items()},
            "responses": component_responses(problem_sets),
            "securitySchemes": _SECURITY_SCHEMES,
        },
    }


def _describe(route: Route, operation: Operation) -> Schema:
    shows_limit = marks_of(route.handler).is_limited_by_address or not marks_of(route.handler).is_public
    answers = next((shape for prefix, shape in _OTHER_SHAPES.items() if route.path.startswith(prefix)), {})
    described: Schema = {
        "operationId": operation.id,
        "tags": [route.tag],
        "summary": operation.summary,
        # An answer by design replaces an error of the same status.
        "responses": error_answers(_problems(route, operation))
        | {status: _answer(answer, shows_limit) for status, answer in {**answers, **operation.answers}.items()},
    }
    described["responses"] = dict(sorted(described["responses"].items()))
    if operation.description:
        described["description"] = operation.description
    if operation.parameters:
        described["parameters"] = list(operation.parameters)
    if operation.body is not None:
        bodies = operation.body if isinstance(operation.body, Mapping) else {JSON: operation.body}
        content = {media: {"schema": _schema(schema)} for media, schema in bodies.items()}
        described["requestBody"] = {"required": True, "content": content}
    if marks_of(route.handler).is_public:
        described["security"] = []
    elif operation.scope is not None:
        described["security"] = [{"bearer": []}, *({name: [operation.scope]} for name in _KEY_SCHEMES)]
    if route.aliases:
        described["x-aliases"] = [_template(alias) for alias in route.aliases]
    return described


def _problems(route: Route, operation: Operation) -> list[type[Problem]]:
    """The errors of an operation: its own, and those that its body and the marks of its handler make possible."""
    handler, problems = route.handler, list(operation.problems)
    if route.path.startswith(tuple(_OTHER_SHAPES)):
        return problems
    if operation.body is not None:
        problems = [*_BODY, *([] if isinstance(operation.body, Mapping) else [errors.Invalid]), *problems]
    marks = marks_of(handler)
    if not marks.is_public:
        problems += [errors.Unauthenticated, errors.Forbidden, errors.RateLimited]
    if marks.is_limited_by_address and marks.is_refresh is None:
        problems += [errors.RateLimited]
    return [*problems, errors.ServerFault, *([] if marks.is_always_up else [errors.Unavailable])]


def _answer(answer: Answer, shows_limit: bool) -> Schema:  # noqa: FBT001 - private
    names = (*answer.headers, *(("RateLimit", "RateLimit-Policy") if shows_limit else ()))
    described: Schema = {"description": answer.description, "headers": header_refs(*names)}
    for media, content in answer.content.items():
        shown: Schema = {"schema": _schema(content.schema)}
        if content.examples:
            shown["examples"] = {name: {"value": value} for name, value in content.examples.items()}
        described.setdefault("content", {})[media] = shown
    return described


def _schema(schema: type[BaseModel] | Schema) -> Schema:
    return ref(schema.__name__.removesuffix("Object")) if isinstance(schema, type) else schema


def _models(described: Iterable[tuple[Route, Operation]]) -> Iterator[type[BaseModel]]:
    """The models that bodies and answers name."""
    for _, operation in described:
        shapes = (
            *operation.answers.values(),
            *(answer for shape in _OTHER_SHAPES.values() for answer in shape.values()),
        )
        for schema in (operation.body, *(content.schema for answer in shapes for content in answer.content.values())):
            if isinstance(schema, type):
                yield schema


def _template(path: str) -> str:
    """A path without the patterns of its parameters."""
    return path.replace(":.+}", "}")
