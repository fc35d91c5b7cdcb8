"""Model requests over HTTP: create, list, get, and wait for either."""

import math
from urllib.parse import urlencode

from aiohttp import hdrs, web

from server.actors.watches import View, Watch
from server.errors import Unavailable
from server.http import keys
from server.http.disconnects import may_be_left, wait_for
from server.http.middlewares import refused_under_overload
from server.http.parameters import accepts_events, read_filters, read_id, single
from server.http.preferences import Waiting, read_preferences, read_wait_parameter
from server.http.responses import raw_json_response
from server.model_request import RequestId
from server.requests.admission import Draft
from server.routes.cancelling import delete
from server.routes.creating import admit, read_draft, require_chance
from server.routes.events import send_request
from server.routes.views import current, etag, location_of


def add_routes(app: web.Application) -> None:
    for prefix in ("/api", ""):
        app.router.add_post(f"{prefix}/requests", create)
        app.router.add_get(f"{prefix}/requests", list_requests)
        app.router.add_get(f"{prefix}/requests/{{id}}", get)
        app.router.add_delete(f"{prefix}/requests/{{id}}", delete)  # beside it: what follows at once is one resource


@refused_under_overload
@may_be_left
async def create(request: web.Request) -> web.StreamResponse:
    """Accept a model request; hold the answer until it is final, as long as the client wants to wait, or stream it.

    The work goes on if the client leaves.
    """
    settings = request.app[keys.SETTINGS]
    waiting = read_preferences(
        request.headers.getall("Prefer", []), default_s=settings.default_wait_s, max_s=settings.max_wait_s
    )
    require_chance(request)
    draft = await read_draft(request)
    if accepts_events(request):
        return await _create_and_stream(request, draft, waiting)
    with request.app[keys.SWITCHBOARD].watch(draft.id) as watch:
        with request.app[keys.ENTRANCE].passing():
            admitted, delay_s = await admit(request, draft, waiting)
        if admitted.is_replayed:
            return await _answer_replay(request, admitted.request_id, waiting)
        watch.seen = admitted.view
        del draft, admitted  # who waits keeps no prompt in memory
        return await _answer(request, watch, waiting, delay_s=delay_s)


async def _create_and_stream(request: web.Request, draft: Draft, waiting: Waiting) -> web.StreamResponse:
    """The events of the request in the same call."""
    switchboard = request.app[keys.SWITCHBOARD]
    with switchboard.follow(draft.id) as follower:
        with request.app[keys.ENTRANCE].passing():
            admitted, _ = await admit(request, draft, waiting)
        del draft
        headers: dict[str, str] = {hdrs.LOCATION: location_of(request, admitted.request_id)}
        if not admitted.is_replayed:
            return await send_request(request, follower, view=admitted.view, headers=headers)
    with switchboard.follow(admitted.request_id) as follower:
        return await send_request(request, follower, headers=headers | {"Idempotent-Replayed": "true"})


@may_be_left
async def get(request: web.Request) -> web.StreamResponse:
    """One model request; with a wait, as soon as it is final, or at any change from what `If-None-Match` names."""
    settings = request.app[keys.SETTINGS]
    request_id = read_id(request.match_info["id"])
    waiting = read_preferences(request.headers.getall("Prefer", []), default_s=0.0, max_s=settings.max_wait_s)
    if "wait" in request.query:
        waiting = read_wait_parameter(single(request, "wait") or "", max_s=settings.max_wait_s)
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get(hdrs.IF_NONE_MATCH, "").split(",")}
    with request.app[keys.SWITCHBOARD].watch(request_id) as watch:
        view = await current(request, request_id)
        if waiting.seconds > 0 and not view.status.is_final and (not known - {""} or etag(view) in known):
            watch.seen = view
            watch.any_change = etag(view) in known
            del view
            news = await wait_for(request, watch, waiting.seconds)
            view = news if news is not None and news.body is not None else await current(request, request_id)
    headers = {hdrs.ETAG: etag(view)} | waiting.headers
    if etag(view) in known:
        return web.Response(status=304, headers=headers)
    return raw_json_response(view.body or b"", headers=headers)


async def list_requests(request: web.Request) -> web.Response:
    """A page of the user's history as a bare array, newest first; the next page is named in `Link`."""
    filters = read_filters(request)
    page = await request.app[keys.HISTORY].page(request[keys.PRINCIPAL].user_id, filters)
    headers: dict[str, str] = {}
    if page.next_cursor is not None:
        query = {name: value for name, value in request.query.items() if name != "cursor"}
        headers[hdrs.LINK] = f'<{request.path}?{urlencode(query | {"cursor": str(page.next_cursor)})}>; rel="next"'
    return raw_json_response(b"[" + b",".join(page.objects) + b"]", headers=headers)


async def _answer(request: web.Request, watch: Watch, waiting: Waiting, *, delay_s: float) -> web.Response:
    """200 with the final object, or 202 with the current one when the wait ends first."""
    view = await wait_for(request, watch, waiting.seconds) if waiting.seconds > 0 else None
    if view is None and waiting.seconds <= 0:
        view = watch.seen
    if view is None or view.body is None:
        view = await _last_known(request, watch)
    return _object_response(request, watch.request_id, view, waiting, poll_after_s=delay_s)


async def _answer_replay(request: web.Request, request_id: RequestId, waiting: Waiting) -> web.Response:
    with request.app[keys.SWITCHBOARD].watch(request_id) as watch:
        view = await current(request, request_id)
        if waiting.seconds > 0 and not view.status.is_final:
            watch.seen = view
            del view
            await wait_for(request, watch, waiting.seconds)
            view = await _last_known(request, watch)
    return _object_response(request, request_id, view, waiting, replayed=True)


async def _last_known(request: web.Request, watch: Watch) -> View:
    """The row as it stands; while the database is away, what was last seen of it: it was accepted in any case."""
    try:
        return await current(request, watch.request_id)
    except Unavailable:
        if watch.seen is None or watch.seen.body is None:
            raise
        return watch.seen


def _object_response(
    request: web.Request,
    request_id: RequestId,
    view: View,
    waiting: Waiting,
    *,
    replayed: bool = False,
    poll_after_s: float = 0.0,
) -> web.Response:
    headers = {hdrs.ETAG: etag(view)} | waiting.headers
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    if view.status.is_final:
        return raw_json_response(view.body or b"", headers=headers)
    headers |= {
        hdrs.LOCATION: location_of(request, request_id),
        hdrs.RETRY_AFTER: str(max(1, math.ceil(poll_after_s))),
    }
    return raw_json_response(view.body or b"", status=202, headers=headers)
