"""`/v1`: chat completions, embeddings and models for clients of OpenAI.

Behind it are the same model requests as everywhere. What differs: an answer is waited for to its end, a request that
failed is an HTTP error, and a client that leaves cancels its request, since it has no other way to get at the answer.
Only who sends an `Idempotency-Key` may leave: the key says that the client comes back.
"""

import contextlib
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import orjson
import structlog
from aiohttp import hdrs, web

from server.actors.subscription import StreamSubscription, View, Waiter
from server.errors import FieldError, Invalid, ModelTooSlow, NotFound, Problem, Unavailable
from server.http import keys
from server.http.bodies import read_create_body
from server.http.disconnects import LEFT, ClientLeft, while_connected
from server.http.middlewares import refused_under_overload
from server.http.responses import json_response
from server.http.sse import EventStream
from server.inference.events import Task
from server.model_request import RequestId, Status
from server.openai.ask import Ask
from server.openai.chat import completion, read_chat
from server.openai.chunks import Chunks
from server.openai.embeddings import embedding_list, read_embeddings
from server.openai.models import model_list
from server.openai.outcome import RETRY_AFTER_S, problem_of
from server.openapi import compatible_objects as objects
from server.openapi import parts
from server.openapi.operation import Operation, Route
from server.requests.service import Created
from server.requests.stream import RequestStream

HOLD_S = 10.0
"""A stream that has nothing to say for so long begins all the same: then a failure is no HTTP status any more."""
GRACE_S = 5.0
"""How long after its deadline the end of a request is waited for: it has to be recorded."""
_MIN_DEADLINE_S = 1.0
_REPLAYED = "Idempotent-Replayed"

log = structlog.get_logger(__name__)

AnyAsk = TypeVar("AnyAsk", bound=Ask)
Render = Callable[[RequestId, Mapping[str, Any]], dict[str, Any]]


def routes() -> tuple[Route, ...]:
    route = functools.partial(Route, "OpenAI-compatible")
    named = ("Location", _REPLAYED)
    completed = parts.json_answer("The answer, whole or as server-sent events.", objects.ChatCompletion, *named)
    streamed = parts.text_answer("", parts.EVENTS, example=objects.CHAT_STREAM).content
    return (
        route("POST", "/v1/chat/completions", chat, Operation(
            "create_chat_completion", "The next turn of a conversation, in OpenAI's protocol",
            {"200": replace(completed, content={**completed.content, **streamed})},
            "A model request like any other, named by `Location`. Without a key it ends when its client leaves.",
            parameters=(parts.IDEMPOTENCY_KEY,), body=objects.CHAT_BODY,
        )),
        route("POST", "/v1/embeddings", embed, Operation(
            "create_embeddings", "The vectors of texts, in OpenAI's protocol",
            {"200": parts.json_answer("The vectors.", objects.EmbeddingList, *named)},
            parameters=(parts.IDEMPOTENCY_KEY,), body=objects.EMBEDDINGS_BODY,
        )),
        route("GET", "/v1/models", list_models, Operation(
            "list_openai_models", "The models that can be named on /v1",
            {"200": parts.json_answer("The models that this server offers.", objects.OpenAIModelList)},
        )),
        route("GET", "/v1/models/{id:.+}", get_model, Operation(
            "get_openai_model", "One model", {"200": parts.json_answer("It is offered.", objects.OpenAIModel)},
            parameters=(parts.path("id", "Its name, slashes and all.", parts.TEXT),),
        )),
    )  # fmt: skip


@refused_under_overload
async def chat(request: web.Request) -> web.StreamResponse:
    """The next turn of a conversation, whole or as it is written."""
    ask, created = await _create(request, read_chat)
    with _named(created) as headers:
        if isinstance(created.subscription, StreamSubscription):
            model = created.model or ask.model
            chunks = Chunks(created.subscription.request_id, model=model, wants_usage=ask.wants_usage)
            return await _stream(request, created.subscription, chunks, headers)
        return await _reply(request, created, completion, asked=ask.model, headers=headers)


@refused_under_overload
async def embed(request: web.Request) -> web.StreamResponse:
    """The vectors of one text or of several."""
    ask, created = await _create(request, read_embeddings)
    render = functools.partial(_render_embeddings, is_base64=ask.is_base64)
    with _named(created) as headers:
        return await _reply(request, created, render, asked=ask.model, headers=headers)


async def list_models(request: web.Request) -> web.Response:
    """What can be asked for by name, for chat and for embeddings."""
    return json_response(_models(request))


async def get_model(request: web.Request) -> web.Response:
    """One entry of the list."""
    name = request.match_info["id"]
    for model in _models(request)["data"]:
        if model["id"] == name:
            return json_response(model)
    message = f"There is no model '{name[:200]}' here; GET /v1/models lists those there are."
    raise NotFound(message, errors=[FieldError("model", message)])


def _models(request: web.Request) -> dict[str, Any]:
    catalog = request.app[keys.CATALOG]
    return model_list([*catalog.models(Task.CHAT_COMPLETION), *catalog.models(Task.FEATURE_EXTRACTION)])


def _render_embeddings(_request_id: RequestId, outcome: Mapping[str, Any], *, is_base64: bool) -> dict[str, Any]:
    return embedding_list(outcome, is_base64=is_base64)


async def _create(
    request: web.Request, read: Callable[[Any], AnyAsk]
) -> tuple[AnyAsk, Created[Waiter] | Created[StreamSubscription]]:
    """The stored request, and how its answer is wanted. The prompt is freed when this call returns.

    Errors name the fields as the client sent them.
    """
    key, data = await read_create_body(request)
    ask = read(data)
    create = functools.partial(
        request.app[keys.REQUESTS].create,
        request[keys.PRINCIPAL].user_id,
        ask.create,
        sent=data,
        key=key,
        on_rate=functools.partial(request.__setitem__, keys.RATE_LIMIT),
    )
    try:
        if ask.is_streamed:
            created: Created[Waiter] | Created[StreamSubscription] = await create(subscribe=StreamSubscription)
        else:
            deadline_s = max(_MIN_DEADLINE_S, request.app[keys.SETTINGS].max_wait_s)
            created = await create(subscribe=Waiter, deadline_s=deadline_s)
    except Invalid as problem:
        raise ask.refusal(problem) from None
    return replace(ask, create={}), created


@contextlib.contextmanager
def _named(created: Created[Waiter] | Created[StreamSubscription]) -> Iterator[dict[str, str]]:
    """Headers that name the request, also on the answer to what goes wrong in the block."""
    headers: dict[str, str] = {hdrs.LOCATION: f"/api/requests/{created.subscription.request_id}"}
    if created.is_replayed:
        headers[_REPLAYED] = "true"
    with created:
        try:
            yield headers
        except Problem as problem:
            problem.headers.update(headers)
            raise


async def _reply(
    request: web.Request,
    created: Created[Waiter] | Created[StreamSubscription],
    render: Render,
    *,
    asked: str,
    headers: dict[str, str],
) -> web.Response:
    """The whole answer, once it is there."""
    watch = created.subscription
    assert isinstance(watch, Waiter), "a stream is not waited for"  # noqa: S101 - tells the type checker
    try:
        async with while_connected(request):
            view = await _last_view(request, watch, created.deadline_s + GRACE_S, is_replayed=created.is_replayed)
    except ClientLeft:
        if not _may_come_back(request):
            await _cancel(request, watch.request_id)
        return web.Response(status=LEFT)
    if not view.status.is_final:
        raise _unfinished(request, view)
    outcome = orjson.loads(view.body or b"{}")
    if (problem := problem_of(outcome)) is not None:
        raise problem
    outcome["model"] = outcome["model"] or created.model or asked  # a server with one model need not tell its name
    return json_response(render(watch.request_id, outcome), headers=headers)


def _may_come_back(request: web.Request) -> bool:
    """A client with a key can get at the answer by sending the same request again."""
    return "Idempotency-Key" in request.headers


async def _last_view(request: web.Request, watch: Waiter, timeout_s: float, *, is_replayed: bool) -> View:
    """The final request; after `timeout_s`, or when the server stops, as it stands then."""
    user_id, service = request[keys.PRINCIPAL].user_id, request.app[keys.REQUESTS]
    if is_replayed:
        watch.seen = await service.get(user_id, watch.request_id)
    is_over = is_replayed and watch.seen is not None and watch.seen.status.is_final
    view = watch.seen if is_over else await watch.wait(timeout_s)
    return view if view is not None and view.body is not None else await service.get(user_id, watch.request_id)


def _unfinished(request: web.Request, view: View) -> Problem:
    if request.app[keys.REQUESTS].subscriptions.is_closed:
        return _stopping()
    if view.status is Status.PENDING:
        return Unavailable("The request did not get its turn in time; ask again.", retry_after_s=RETRY_AFTER_S)
    return ModelTooSlow("The request has not ended in time; Location says where its answer will be.")


def _stopping() -> Problem:
    return Unavailable(
        "The server is stopping. The request goes on, and Location says where its answer will be.",
        retry_after_s=RETRY_AFTER_S,
    )


async def _stream(
    request: web.Request, follower: StreamSubscription, chunks: Chunks, headers: dict[str, str]
) -> web.StreamResponse:
    """The answer in chunks. The response begins with the first of them, so that a failure before is a real status."""
    stream = request.app[keys.REQUESTS].stream(request[keys.PRINCIPAL].user_id, follower)
    try:
        async with while_connected(request), contextlib.aclosing(_pieces(stream, chunks)) as pieces:
            await stream.open()
            first = await anext(pieces)
            return await EventStream(request, headers=headers).send(_from(first, pieces))
    except ClientLeft:
        return web.Response(status=LEFT)
    finally:
        if not (stream.is_over or follower.is_closed or _may_come_back(request)):
            await _cancel(request, follower.request_id)


async def _pieces(stream: RequestStream, chunks: Chunks) -> AsyncGenerator[bytes, None]:
    """What to write, as it comes. Raises the `Problem` that ends the request, as long as there was nothing to write."""
    try:
        async with contextlib.aclosing(stream.batches(heartbeat_s=HOLD_S)) as batches:
            async for batch in batches:
                chunks.model = stream.model or chunks.model
                if data := b"".join(chunks.take(event.name, event.data) for event in batch):
                    yield data
                elif not batch:
                    yield chunks.keep_alive()
                if chunks.is_over:
                    return
        raise _stopping()
    except Problem as problem:
        yield chunks.fail(problem)


async def _from(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    yield first
    async for piece in rest:
        yield piece


async def _cancel(request: web.Request, request_id: RequestId) -> None:
    """The same as `POST /api/requests/{id}/cancel`. If the outcome is there first, that is as good."""
    try:
        view = await request.app[keys.REQUESTS].cancel(request[keys.PRINCIPAL].user_id, request_id)
    except Problem as problem:  # deleted, or the database is away: then it goes on to its deadline
        log.info("left_request_goes_on", id=str(request_id), reason=problem.detail)
    else:
        log.info("client_left", id=str(request_id), status=view.status)
