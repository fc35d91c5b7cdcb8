"""The console: a web page for people at `/`, an index of the API for machines."""

from aiohttp import hdrs, web

from server import __version__
from server.http.middlewares import Handler, always_up
from server.http.pages import Page, read_page, respond, serve
from server.http.responses import json_response

_INDEX = {
    "name": "ai-sdk-server",
    "version": __version__,
    "docs": "/docs",
    "openapi": "/openapi.json",
    "health": "/health",
}


def add_routes(app: web.Application) -> None:
    app.router.add_get("/", _index(read_page("index.html")))
    for name in ("app.js", "answer.js", "api.js", "ask.js", "history.js", "page.js", "style.css"):
        app.router.add_get(f"/console/{name}", serve(read_page(name)))


def _index(page: Page) -> Handler:
    @always_up
    async def index(request: web.Request) -> web.StreamResponse:
        """The page, unless JSON is asked for and HTML is not."""
        accept = ",".join(request.headers.getall(hdrs.ACCEPT, []))
        wants_json = "application/json" in accept and "text/html" not in accept
        response = json_response(_INDEX) if wants_json else respond(request, page)
        response.headers[hdrs.VARY] = hdrs.ACCEPT
        return response

    return index
