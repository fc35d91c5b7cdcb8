"""The description of this interface: for machines at `/openapi.json`, for people at `/docs`."""

import functools

from aiohttp import web

from server.encoding import dumps
from server.http.marks import Handler, always_up
from server.http.pages import Page, make_page, read_page, respond, serve
from server.openapi import parts
from server.openapi.document import build_document
from server.openapi.operation import ROUTES, Operation, Route


def routes() -> tuple[Route, ...]:
    route = functools.partial(Route, "Operation")
    unchanged = parts.empty_answer("Unchanged.", "ETag")
    document = {"200": parts.json_answer("OpenAPI 3.1.", {"type": "object"}), "304": unchanged}
    page = {"200": parts.text_answer("A web page.", "text/html"), "304": unchanged}
    return (
        route("GET", "/openapi.json", _openapi(), Operation("openapi", "This document", document)),
        route("GET", "/docs", serve(read_page("docs.html")), Operation("docs", "This document as a page", page)),
        route("GET", "/console/docs.js", serve(read_page("docs.js"))),
    )


def _openapi() -> Handler:
    made: list[Page] = []

    @always_up
    async def openapi(request: web.Request) -> web.StreamResponse:
        """Made when it is first asked for: it takes longer than all routes together."""
        if not made:
            routes = request.app[ROUTES]
            made.append(make_page(dumps(build_document(routes)), "json"))
        return respond(request, made[0])

    return openapi
