"""`/v1`: chat and text completions, embeddings and models for clients of OpenAI.

They are model requests like all others, with three differences: a response waits for the end of its request, a failed
request is an HTTP error, and a client that disconnects cancels its request, since it cannot get the answer otherwise.
A client with an `Idempotency-Key` may disconnect: it can send the same request again.
"""

import contextlib
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import orjson
import structlog
from aiohttp import hdrs, web

from server.actors.subscription import StreamSubscription, View, Waiter
from server.auth.principal import Scope
from server.errors import FieldError, Invalid, ModelTooSlow, NotFound, Problem, Unauthenticated, Unavailable
from server.http import keys
from server.http.bodies import parse_json_cleaned
from server.http.create_bodies import open_create_body
from server.http.credentials import until_key_ends
from server.http.disconnects import LEFT, ClientLeft, while_connected
from server.http.inline_files import inline_images
from server.http.marks import refused_under_overload
from server.http.responses import json_response, link_to
from server.http.sse import EventStream
from server.inference.events import Task, lists
from server.model_request import RequestId, Status
from server.openai.ask import Ask
from server.openai.chat import completion, read_chat
from server.openai.chunks import Chunks
from server.openai.completions import TextChunks, read_completion, text_completion
from server.openai.embeddings import embedding_list, read_embeddings
from server.openai.models import model_list, model_object
from server.openai.outcome import RETRY_AFTER_S, problem_of
from server.openapi import compatible_objects as objects
from server.openapi import parts
from server.openapi.operation import Operation, Route
from server.requests.service import Created
from server.requests.stream import RequestStream
from server.transcript import Final

HOLD_S = 4.0
"""A stream without an event for this time begins with a comment; a later failure is an event, not an HTTP status."""
GRACE_S = 5.0
"""Time to wait after the deadline of a request, for its outcome to be stored."""
_MIN_DEADLINE_S = 1.0
_REPLAYED = "Idempotent-Replayed"
_KEY_ENDED = "The API key was revoked or has expired. The request goes on, and Location says where its answer will be."

log = structlog.get_logger(__name__)

AnyAsk = TypeVar("AnyAsk", bound=Ask)
Render = Callable[[RequestId, Mapping[str, Any]], dict[str, Any]]


def routes() -> tuple[Route, ...]:
    route = functools.partial(Route, "OpenAI-compatible")
    named = ("Location", _REPLAYED)
    completed = parts.json_answer("The answer, whole or as server-sent events.", objects.ChatCompletion, *named)
    streamed = parts.text_answer("", parts.EVENTS, example=objects.CHAT_STREAM).content
    continued = parts.json_answer("The text, whole or as server-sent events.", objects.TextCompletion, *named)
    pieces = parts.text_answer("", parts.EVENTS, example=objects.COMPLETION_STREAM).content
    return (
        route("POST", "/v1/chat/completions", chat, Operation(
            "create_chat_completion", "The next turn of a conversation, in OpenAI's protocol",
            {"200": replace(completed, content={**completed.content, **streamed})},
            "A model request like any other, named by `Location`. Without a key it ends when its client leaves.",
            parameters=(parts.IDEMPOTENCY_KEY,), body=objects.CHAT_BODY, scope=Scope.CREATE,
        )),
        route("POST", "/v1/completions", complete, Operation(
            "create_completion", "The continuation of a text, in OpenAI's protocol before chat",
            {"200": replace(continued, content={**continued.content, **pieces})},
            "A model request of the type `text-generation`.",
            parameters=(parts.IDEMPOTENCY_KEY,), body=objects.COMPLETION_BODY, scope=Scope.CREATE,
        )),
        route("POST", "/v1/embeddings", embed, Operation(
            "create_embeddings", "The vectors of texts, in OpenAI's protocol",
            {"200": parts.json_answer("The vectors.", objects.EmbeddingList, *named)},
            parameters=(parts.IDEMPOTENCY_KEY,), body=objects.EMBEDDINGS_BODY, scope=Scope.CREATE,
        )),
        route("GET", "/v1/models", list_models, Operation(
            "list_openai_models", "The models that can be named on /v1",
            {"200": parts.json_answer("The models that this server offers.", objects.OpenAIModelList)},
            scope=Scope.READ,
        )),
        route("GET", "/v1/models/{id:.+}", get_model, Operation(
            "get_openai_model", "One model", {"200": parts.json_answer("It is offered.", objects.OpenAIModel)},
            parameters=(parts.path("id", "Its name, slashes and all.", parts.TEXT),), scope=Scope.READ,
        )),
    )  # fmt: skip


@refused_under_overload
async def chat(request: web.Request) -> web.StreamResponse:
    """The next turn of a conversation, as a whole or as a stream."""
    return await _answer(request, read_chat, completion, Chunks)


@refused_under_overload
async def complete(request: web.Request) -> web.StreamResponse:
    """The continuation of a text, as a whole or as a stream."""
    return await _answer(request, read_completion, text_completion, TextChunks)


async def _answer(
    request: web.Request, read: Callable[[Any], Ask], render: Render, chunks_type: type[Chunks]
) -> web.StreamResponse:
    ask, created = await _create(request, read)
    with _named(request, created) as headers:
        if isinstance(created.subscription, StreamSubscription):
            model = created.model or ask.model
            chunks = chunks_type(created.subscription.request_id, model=model, wants_usage=ask.wants_usage)
            return await _stream(request, created.subscription, chunks, headers)
        return await _reply(request, created, render, asked=ask.model, headers=headers)


@refused_under_overload
async def embed(request: web.Request) -> web.StreamResponse:
    """The vectors of one text or of several."""
    ask, created = await _create(request, read_embeddings)
    render = functools.partial(_render_embeddings, is_base64=ask.is_base64)
    with _named(request, created) as headers:
        return await _reply(request, created, render, asked=ask.model, headers=headers)


async def list_models(request: web.Request) -> web.Response:
    """The models for chat and for embeddings."""
    return json_response(await _models(request))


async def get_model(request: web.Request) -> web.Response:
    """One entry of the list."""
    name = request.match_info["id"]
    for model in (await _models(request))["data"]:
        if model["id"] == name:
            return json_response(model)
    if request.app[keys.CATALOG].follows_listing and await lists(request.app[keys.UPSTREAM], name):
        return json_response(model_object(name))
    message = f"There is no model '{name[:200]}' here; GET /v1/models lists those there are."
    raise NotFound(message, errors=[FieldError("model", message)])


async def _models(request: web.Request) -> dict[str, Any]:
    catalog = request.app[keys.CATALOG]
    listing = await request.app[keys.UPSTREAM].listing() if catalog.follows_listing else None
    listed = () if listing is None else (model.id for model in listing.models)
    return model_list([*catalog.models(Task.CHAT_COMPLETION), *catalog.models(Task.FEATURE_EXTRACTION), *listed])


def _render_embeddings(_request_id: RequestId, outcome: Mapping[str, Any], *, is_base64: bool) -> dict[str, Any]:
    return embedding_list(outcome, is_base64=is_base64)


async def _create(
    request: web.Request, read: Callable[[Any], AnyAsk]
) -> tuple[AnyAsk, Created[Waiter] | Created[StreamSubscription]]:
    """The stored request, and the client's wishes for the response. The prompt is freed on return.

    Errors name the fields as the client sent them.
    """
    async with open_create_body(request, parse=parse_json_cleaned) as body:
        ask = read(body.data)
        create = functools.partial(
            request.app[keys.REQUESTS].create,
            request[keys.PRINCIPAL].user_id,
            ask.create,
            sent=body.data,
            key=body.key,
            digests=body.digests,
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
    request[keys.MODEL_REQUEST_ID] = created.subscription.request_id
    return replace(ask, create={}), created


@contextlib.contextmanager
def _named(request: web.Request, created: Created[Waiter] | Created[StreamSubscription]) -> Iterator[dict[str, str]]:
    """Headers that name the request; an error in the block gets them as well."""
    headers: dict[str, str] = {hdrs.LOCATION: link_to(request, f"/api/requests/{created.subscription.request_id}")}
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
    """The response, once the request has ended."""
    waiter = created.subscription
    assert isinstance(waiter, Waiter), "a stream has no waiter"  # noqa: S101 - for the type checker
    try:
        async with while_connected(request):
            view = await _last_view(request, waiter, created.deadline_s + GRACE_S, is_replayed=created.is_replayed)
    except ClientLeft:
        if not _may_come_back(request):
            await _cancel(request, waiter.request_id)
        return web.Response(status=LEFT)
    if not view.status.is_final:
        raise _unfinished(request, view)
    outcome = orjson.loads(view.body or b"{}")
    if (problem := problem_of(outcome)) is not None:
        raise problem
    outcome["model"] = outcome["model"] or created.model or asked  # a server with one model may not report its name
    outcome["images"] = await inline_images(request, waiter.request_id, outcome)
    return json_response(render(waiter.request_id, outcome), headers=headers)


def _may_come_back(request: web.Request) -> bool:
    """A client with an idempotency key gets the answer when it sends the same request again."""
    return "Idempotency-Key" in request.headers


async def _last_view(request: web.Request, waiter: Waiter, timeout_s: float, *, is_replayed: bool) -> View:
    """The final request, or its current state after `timeout_s` or when the server stops."""
    user_id, service = request[keys.PRINCIPAL].user_id, request.app[keys.REQUESTS]
    if is_replayed:
        waiter.seen = await service.get(user_id, waiter.request_id)
    is_over = is_replayed and waiter.seen is not None and waiter.seen.status.is_final
    view = waiter.seen if is_over else await waiter.wait(timeout_s)
    return view if view is not None and view.body is not None else await service.get(user_id, waiter.request_id)


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
    request: web.Request, subscription: StreamSubscription, chunks: Chunks, headers: dict[str, str]
) -> web.StreamResponse:
    """The answer in chunks. The response begins with the first chunk, so that an earlier failure has an HTTP status."""
    stream = request.app[keys.REQUESTS].stream(request[keys.PRINCIPAL].user_id, subscription)
    find_images = functools.partial(inline_images, request, subscription.request_id)
    try:
        with until_key_ends(request, subscription.end):
            async with while_connected(request), contextlib.aclosing(_pieces(stream, chunks, find_images)) as pieces:
                await stream.open()
                first = await anext(pieces)
                return await EventStream(request, headers=headers).send(_from(first, pieces))
    except ClientLeft:
        return web.Response(status=LEFT)
    finally:
        if not (stream.is_over or subscription.is_closed or _may_come_back(request)):
            await _cancel(request, subscription.request_id)


async def _pieces(
    stream: RequestStream, chunks: Chunks, find_images: Callable[[Mapping[str, Any]], Awaitable[list[str]]]
) -> AsyncGenerator[bytes, None]:
    """The bytes to write. Raises the `Problem` that ends the request before the first byte."""
    try:
        async with contextlib.aclosing(stream.batches(heartbeat_s=HOLD_S, has_states=False)) as batches:
            async for batch in batches:
                chunks.model = stream.model or chunks.model
                if batch and isinstance(final := batch[-1].value, Final) and b'"files":' in final.body:
                    chunks.images = await find_images(orjson.loads(final.body))
                if data := b"".join(chunks.encode(event.value) for event in batch):
                    yield data
                elif not batch:
                    yield chunks.keep_alive()
                if chunks.is_over:
                    return
        raise Unauthenticated(_KEY_ENDED) if stream.has_ended else _stopping()
    except Problem as problem:
        yield chunks.fail(problem)


async def _from(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    yield first
    async for piece in rest:
        yield piece


async def _cancel(request: web.Request, request_id: RequestId) -> None:
    """As `POST /api/requests/{id}/cancel`; a request that has ended stays as it is."""
    try:
        view = await request.app[keys.REQUESTS].cancel(request[keys.PRINCIPAL].user_id, request_id)
    except Problem as problem:  # deleted, or no database: the request goes on to its deadline
        log.info("left_request_goes_on", id=str(request_id), reason=problem.detail)
    else:
        log.info("client_left", id=str(request_id), status=view.status)
