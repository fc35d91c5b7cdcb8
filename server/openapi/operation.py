"""What describes a route: its operation, with its parameters, its body and its answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import hdrs, web
from pydantic import BaseModel

from server.errors import Problem
from server.http.middlewares import Handler
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


@dataclass(frozen=True, slots=True)
class Operation:
    """What the document says about a route.

    `body` is the model of a JSON body, or a schema for each media type. `problems` are errors of its own: those that
    follow from its body and from who may call it are added. `needs_token` is for handlers that check it themselves.
    """

    id: str
    summary: str
    answers: Mapping[str, Answer]
    description: str = ""
    parameters: tuple[Schema, ...] = ()
    body: Model | Mapping[str, Schema] | None = None
    problems: tuple[type[Problem], ...] = ()
    needs_token: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """A handler at a path; without an operation it is no part of the interface. Paths below `/api` have an alias."""

    tag: str
    method: str
    path: str
    handler: Handler
    operation: Operation | None = None

    @property
    def aliases(self) -> tuple[str, ...]:
        return (self.path.removeprefix("/api"),) if self.path.startswith("/api/") else ()


ROUTES = web.AppKey("routes", list[Route])
"""All that the application answers to, in the order of the document."""


def add_routes(app: web.Application, routes: Sequence[Route]) -> None:
    """Add them at their paths and aliases; a GET answers HEAD too. The routes of one path become one resource."""
    app[ROUTES] = [*app.get(ROUTES, ()), *routes]
    resources: dict[str, web.Resource] = {}
    for route in routes:
        for place in (route.path, *route.aliases):
            if place not in resources:
                resources[place] = app.router.add_resource(place)
            for method in (hdrs.METH_HEAD, hdrs.METH_GET) if route.method == hdrs.METH_GET else (route.method,):
                resources[place].add_route(method, route.handler)
