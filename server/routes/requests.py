"""Model requests over HTTP: create, list, get, wait for either, cancel, delete."""

import functools
import math
from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import urlencode

from aiohttp import hdrs, web

from server.actors.subscription import StreamSubscription, Subscription, View, Waiter
from server.actors.subscriptions import Subscriptions
from server.errors import Conflict
from server.http import keys
from server.http.bodies import read_create_body
from server.http.disconnects import may_be_left, wait_for
from server.http.middlewares import refused_under_overload
from server.http.parameters import accepts_events, read_filters, read_id, single
from server.http.preferences import Waiting, read_preferences, read_wait_parameter
from server.http.request_events import send_request
from server.http.responses import raw_json_response
from server.model_request import RequestId, Status
from server.requests.service import Created

_REPLAYED = "Idempotent-Replayed"

AnySubscription = TypeVar("AnySubscription", bound=Subscription)


def add_routes(app: web.Application) -> None:
    for prefix in ("/api", ""):
        app.router.add_post(f"{prefix}/requests", create)
        app.router.add_get(f"{prefix}/requests", list_requests)
        app.router.add_get(f"{prefix}/requests/{{id}}", get)
        app.router.add_delete(f"{prefix}/requests/{{id}}", delete)
        app.router.add_post(f"{prefix}/requests/{{id}}/cancel", cancel)


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
    if accepts_events(request):
        with await _create(request, waiting, StreamSubscription) as created:
            headers = _replay_headers(created) | {hdrs.LOCATION: _location(request, created.subscription.request_id)}
            return await send_request(request, created.subscription, headers=headers)
    with await _create(request, waiting, Waiter) as created:
        return await _answer(request, created, waiting)


async def _create(
    request: web.Request, waiting: Waiting, subscribe: Callable[[Subscriptions, RequestId], AnySubscription]
) -> Created[AnySubscription]:
    """The body lives in this call alone: a client that waits for its answer holds no prompt."""
    key, body = await read_create_body(request)
    return await request.app[keys.REQUESTS].create(
        request[keys.PRINCIPAL].user_id,
        body,
        sent=body,
        key=key,
        subscribe=subscribe,
        may_be_put_off=waiting.applied == "respond-async",
        on_rate=functools.partial(request.__setitem__, keys.RATE_LIMIT),
    )


async def _answer(request: web.Request, created: Created[Waiter], waiting: Waiting) -> web.Response:
    """200 with the final object, or 202 with the current one when the wait ends first."""
    user_id, service, waiter = request[keys.PRINCIPAL].user_id, request.app[keys.REQUESTS], created.subscription
    if created.is_replayed:
        waiter.seen = await service.get(user_id, waiter.request_id)
    is_over = waiting.seconds <= 0 or (waiter.seen is not None and waiter.seen.status.is_final)
    view = waiter.seen if is_over else await wait_for(request, waiter, waiting.seconds)
    if view is None or view.body is None:
        view = await service.last_known(user_id, waiter)
    headers = {hdrs.ETAG: _etag(view)} | waiting.headers | _replay_headers(created)
    if view.status.is_final:
        return raw_json_response(view.body or b"", headers=headers)
    headers |= {
        hdrs.LOCATION: _location(request, waiter.request_id),
        hdrs.RETRY_AFTER: str(max(1, math.ceil(created.delay_s))),
    }
    return raw_json_response(view.body or b"", status=HTTPStatus.ACCEPTED, headers=headers)


@may_be_left
async def get(request: web.Request) -> web.StreamResponse:
    """One model request; with a wait, as soon as it is final, or at any change from what `If-None-Match` names."""
    user_id, service = request[keys.PRINCIPAL].user_id, request.app[keys.REQUESTS]
    max_wait_s = request.app[keys.SETTINGS].max_wait_s
    request_id = read_id(request.match_info["id"])
    waiting = read_preferences(request.headers.getall("Prefer", []), default_s=0.0, max_s=max_wait_s)
    if "wait" in request.query:
        waiting = read_wait_parameter(single(request, "wait") or "", max_s=max_wait_s)
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get(hdrs.IF_NONE_MATCH, "").split(",")}
    with service.watch(request_id) as waiter:
        view = await service.get(user_id, request_id)
        if waiting.seconds > 0 and not view.status.is_final and (not known - {""} or _etag(view) in known):
            waiter.seen = view
            waiter.any_change = _etag(view) in known
            del view  # frees its object: the waiter keeps it while there is memory
            update = await wait_for(request, waiter, waiting.seconds)
            view = update if update is not None and update.body is not None else await service.get(user_id, request_id)
    headers = {hdrs.ETAG: _etag(view)} | waiting.headers
    if _etag(view) in known:
        return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
    return raw_json_response(view.body or b"", headers=headers)


async def list_requests(request: web.Request) -> web.Response:
    """A page of the user's history as a bare array, newest first; the next page is named in `Link`."""
    filters = read_filters(request)
    page = await request.app[keys.REQUESTS].page(request[keys.PRINCIPAL].user_id, filters)
    headers: dict[str, str] = {}
    if page.next_cursor is not None:
        query = {name: value for name, value in request.query.items() if name != "cursor"}
        headers[hdrs.LINK] = f'<{request.path}?{urlencode(query | {"cursor": str(page.next_cursor)})}>; rel="next"'
    return raw_json_response(b"[" + b",".join(page.objects) + b"]", headers=headers)


async def cancel(request: web.Request) -> web.Response:
    """200 with the cancelled object, also when it was cancelled before; 202 while its owner is still to be reached.

    409 when it had ended otherwise, or did so first.
    """
    request_id = read_id(request.match_info["id"])
    view = await request.app[keys.REQUESTS].cancel(request[keys.PRINCIPAL].user_id, request_id)
    headers: dict[str, str] = {hdrs.ETAG: _etag(view)}
    if not view.status.is_final:
        headers |= {hdrs.LOCATION: _location(request, request_id), hdrs.RETRY_AFTER: "1"}
        return raw_json_response(view.body or b"", status=HTTPStatus.ACCEPTED, headers=headers)
    if view.status is not Status.CANCELLED:
        raise Conflict(f"This request is {view.status} already; there is nothing to cancel.")
    return raw_json_response(view.body or b"", headers=headers)


async def delete(request: web.Request) -> web.Response:
    """Remove the request with its files. One that runs is cancelled first, so that its readers see an end."""
    await request.app[keys.REQUESTS].delete(request[keys.PRINCIPAL].user_id, read_id(request.match_info["id"]))
    return web.Response(status=HTTPStatus.NO_CONTENT)


def _location(request: web.Request, request_id: RequestId) -> str:
    """The path of a request, with the prefix that the client uses."""
    prefix = "/api" if request.path.startswith("/api/") else ""
    return f"{prefix}/requests/{request_id}"


def _replay_headers(created: Created[AnySubscription]) -> dict[str, str]:
    return {_REPLAYED: "true"} if created.is_replayed else {}


def _etag(view: View) -> str:
    return f'"{view.epoch}-{view.status}"'
