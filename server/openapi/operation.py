"""Routes with their operations: the description of a route stands where its handler is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiohttp import hdrs, web

from server.auth.principal import Scope
from server.errors import Problem
from server.http import keys
from server.http.marks import Handler
from server.openai import PREFIX as OPENAI_PREFIX
from server.openapi.parts import Answer, Model, Schema


@dataclass(frozen=True, slots=True)
class Operation:
    """The description of a route in the document.

    `body` is the model of a JSON body, or a schema for each media type. `problems` are errors of its own: those that
    follow from its body and from the marks of its handler are added. `scope` is what an API key needs to call it; an
    operation without one takes no API key. The middleware reads it from here.
    """

    id: str
    summary: str
    answers: Mapping[str, Answer]
    description: str = ""
    parameters: tuple[Schema, ...] = ()
    body: Model | Mapping[str, Schema] | None = None
    problems: tuple[type[Problem], ...] = ()
    scope: Scope | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """A handler at a path; without an operation it is no part of the interface.

    Paths below `/api` have an alias without it, and paths below `/v1` one with a slash at the end, which some clients
    put behind every path, and one with two slashes, from clients whose base URL ends with one.
    """

    tag: str
    method: str
    path: str
    handler: Handler
    operation: Operation | None = None

    @property
    def aliases(self) -> tuple[str, ...]:
        if self.path.startswith("/api/"):
            return (self.path.removeprefix("/api"),)
        if not self.path.startswith(OPENAI_PREFIX):
            return ()
        doubled = self.path.replace(OPENAI_PREFIX, f"{OPENAI_PREFIX}/", 1)
        return (doubled,) if "{" in self.path else (f"{self.path}/", doubled)


ROUTES = web.AppKey("routes", list[Route])
"""All that the application answers to, in the order of the document."""


def add_routes(app: web.Application, routes: Sequence[Route]) -> None:
    """Add them at their paths and aliases; a GET answers HEAD too. The routes of one path become one resource."""
    app[ROUTES] = [*app.get(ROUTES, ()), *routes]
    scopes = app.setdefault(keys.SCOPES, {})
    for route in routes:
        if route.operation is not None and route.operation.scope is not None:
            scopes[route.handler] = route.operation.scope
    resources: dict[str, web.Resource] = {}
    for route in routes:
        for place in (route.path, *route.aliases):
            if place not in resources:
                resources[place] = app.router.add_resource(place)
            for method in (hdrs.METH_HEAD, hdrs.METH_GET) if route.method == hdrs.METH_GET else (route.method,):
                resources[place].add_route(method, route.handler)
