"""How a model request stands, for the user who asks: read, and described in headers."""

from aiohttp import web

from server.actors.watches import View
from server.errors import NotFound
from server.http import keys
from server.model_request import RequestId


async def current(request: web.Request, request_id: RequestId) -> View:
    view = await request.app[keys.HISTORY].get(request_id, request[keys.PRINCIPAL].user_id)
    if view is None:
        raise NotFound("There is no model request of yours with this id.")
    return view


def location_of(request: web.Request, request_id: RequestId) -> str:
    """The path of a request, with the prefix that the client uses."""
    prefix = "/api" if request.path.startswith("/api/") else ""
    return f"{prefix}/requests/{request_id}"


def etag(view: View) -> str:
    return f'"{view.epoch}-{view.status}"'
