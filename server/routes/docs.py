"""The description of this interface: for machines at `/openapi.json`, for people at `/docs`."""

from aiohttp import web

from server.encoding import dumps
from server.openapi import build_document
from server.routes.console import make_page, read_page, serve


def add_routes(app: web.Application) -> None:
    app.router.add_get("/openapi.json", serve(make_page(dumps(build_document()), "json")))
    app.router.add_get("/docs", serve(read_page("docs.html")))
    app.router.add_get("/console/docs.js", serve(read_page("docs.js")))
