"""The description of this interface: for machines at `/openapi.json`, for people at `/docs`."""

import functools

from aiohttp import web

from server.encoding import dumps
from server.http.middlewares import always_up
from server.http.pages import Page, make_page, read_page, respond, serve
from server.openapi import build_document


def add_routes(app: web.Application) -> None:
    app.router.add_get("/openapi.json", _openapi)
    app.router.add_get("/docs", serve(read_page("docs.html")))
    app.router.add_get("/console/docs.js", serve(read_page("docs.js")))


@always_up
async def _openapi(request: web.Request) -> web.StreamResponse:
    return respond(request, _document())


@functools.cache
def _document() -> Page:
    """Made when it is first asked for: it takes longer than all routes together."""
    return make_page(dumps(build_document()), "json")
