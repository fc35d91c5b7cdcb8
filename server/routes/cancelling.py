"""Ending model requests: cancel one, which keeps what it has, or forget it altogether."""

import time

import structlog
from aiohttp import hdrs, web

from server.actors.watches import View, Watch
from server.errors import Conflict, NotFound
from server.http import keys
from server.http.parameters import read_id
from server.http.responses import raw_json_response
from server.model_request import InstanceId, RequestId, Status
from server.routes.views import current, etag, location_of

CANCEL_WAIT_S = 5.0
"""For the owner to stop and to record what there is; longer only when it is out of reach."""
_ASK_AGAIN_S = 0.2
_ACCEPTED, _NO_CONTENT = 202, 204

log = structlog.get_logger(__name__)


def add_routes(app: web.Application) -> None:
    for prefix in ("/api", ""):
        app.router.add_post(f"{prefix}/requests/{{id}}/cancel", cancel)


async def cancel(request: web.Request) -> web.Response:
    """200 with the cancelled object, also when it was cancelled before; 202 while its owner is still to be reached.

    409 when it had ended otherwise, or did so first.
    """
    request_id = read_id(request.match_info["id"])
    view = await end(request, request_id)
    if not view.status.is_final:
        headers: dict[str, str] = {
            hdrs.ETAG: etag(view),
            hdrs.LOCATION: location_of(request, request_id),
            hdrs.RETRY_AFTER: "1",
        }
        return raw_json_response(view.body or b"", status=_ACCEPTED, headers=headers)
    if view.status is not Status.CANCELLED:
        raise Conflict(f"This request is {view.status} already; there is nothing to cancel.")
    return raw_json_response(view.body or b"", headers={hdrs.ETAG: etag(view)})


async def delete(request: web.Request) -> web.Response:
    """Remove the request with its files. One that runs is cancelled first, so that whoever follows it sees an end."""
    request_id = read_id(request.match_info["id"])
    view = await end(request, request_id)
    user_id = request[keys.PRINCIPAL].user_id
    if not await request.app[keys.READER].fetch("delete_request", request_id, user_id):
        raise NotFound("There is no model request of yours with this id.")
    request.app[keys.ENGINE].reaper.wake()
    log.info("request_deleted", id=str(request_id), status=view.status)
    return web.Response(status=_NO_CONTENT)


async def end(request: web.Request, request_id: RequestId) -> View:
    """Cancel it if it lives; how it stands afterwards. Raises `NotFound`."""
    user_id = request[keys.PRINCIPAL].user_id
    with request.app[keys.SWITCHBOARD].watch(request_id) as watch:
        row = await request.app[keys.READER].fetch_row("cancel_request", request_id, user_id)
        if row is not None and row["status"] == Status.CANCELLED:
            log.info("request_cancelled", id=str(request_id))
            view = View(Status.CANCELLED, row["epoch"])
            request.app[keys.SWITCHBOARD].publish(request_id, view)
            request.app[keys.FEEDS].tell(user_id, request_id, view)
        elif row is not None:
            return await _stop(request, watch, row["owner"])
        return await current(request, request_id)


async def _stop(request: web.Request, watch: Watch, owner: InstanceId) -> View:
    """Have its owner stop it, and wait for the end: how it stands then.

    It is asked more than once: a claim whose reply is on its way is not in the workload yet, and hints get lost.
    """
    give_up_at = time.monotonic() + CANCEL_WAIT_S
    while True:
        request.app[keys.ENGINE].cancel(watch.request_id, owner)
        if await watch.is_told(within_s=_ASK_AGAIN_S) or time.monotonic() >= give_up_at:
            return await current(request, watch.request_id)
