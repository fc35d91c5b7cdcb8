"""The console: a web page for people at `/`, an index of the API for machines."""

import functools

from aiohttp import hdrs, web

from server.http.marks import Handler, always_up
from server.http.pages import Page, read_page, respond, serve
from server.http.responses import json_response
from server.openapi import parts
from server.openapi.objects import IndexObject, example_of
from server.openapi.operation import Operation, Route

_INDEX = example_of(IndexObject)


def routes() -> tuple[Route, ...]:
    route = functools.partial(Route, "Operation")
    answers = {
        "200": parts.json_answer(
            "JSON where `Accept` asks for it and not for HTML, else the page.", IndexObject, "Vary"
        ),
        "304": parts.empty_answer("The page is unchanged.", "ETag", "Vary"),
    }
    operation = Operation("index", "The console for people, an index for machines", answers)
    files = ("app.js", "answer.js", "api.js", "ask.js", "history.js", "page.js", "style.css")
    return (
        route("GET", "/", _index(read_page("index.html")), operation),
        *(route("GET", f"/console/{name}", serve(read_page(name))) for name in files),
    )


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
