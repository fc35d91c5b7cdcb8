"""The composition root: settings in, a wired application out. Nothing starts before its cleanup context does."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import aiohttp_cors
from aiohttp import web

from server.auth.api_keys.api_keys import ApiKeys
from server.auth.embedded_accounts import get_or_create_signing_secret
from server.auth.identity import Identity, create_identity
from server.auth.revocations import Revocations
from server.auth.sign_up_limit import SignUpLimit
from server.auth.tokens import SigningKey
from server.catalog import Catalog
from server.engine import Engine
from server.files.input_files import InputFiles
from server.files.stored import FileFinder
from server.files.uploads import MIB, Uploads
from server.http import keys
from server.http.hosts import AllowedHosts
from server.http.middleware import serve
from server.http.origins import AllowedOrigins, CorsRouter
from server.http.response_headers import add_headers
from server.inference.backends import create_upstream
from server.inference.events import Upstream
from server.lifecycle import Lifecycle
from server.limits.concurrency import ConcurrencyLimiter
from server.limits.memory import MemoryBudget
from server.limits.rates import RateLimiter
from server.model_request import InstanceId
from server.monitoring.catalog import Sources
from server.monitoring.metrics import Metrics
from server.monitoring.siblings import ALONE, Siblings
from server.openai import PREFIX as OPENAI_PREFIX
from server.openapi.operation import add_routes
from server.requests.admission import Admission
from server.requests.history import History
from server.requests.service import ModelRequests
from server.requests.usage import UsageHistory
from server.routes import (
    api_keys,
    auth,
    console,
    docs,
    events,
    files,
    gotrue,
    health,
    metrics,
    models,
    openai,
    requests,
    usage,
)
from server.settings import Settings
from server.storage.objects import Objects, create_objects
from server.storage.prepare import database_of, listening_database, prepare_database
from server.storage.reader import PooledQueries

Context = Callable[[web.Application], AsyncIterator[None]]

RESOURCES = (requests, events, files, models, usage, auth, api_keys, openai, health, metrics, docs, console)
"""The modules whose routes every server has. `gotrue` comes with the embedded accounts only."""
READS_PER_CREATE = 10
"""How many more reads than creates a user may make in a minute."""
REFRESHES_PER_MINUTE = 30
"""For each client address, in bursts of the same size: 1,800 an hour, the rate of Supabase Auth."""
UNKNOWN_KEYS_PER_MINUTE = 30
"""API keys that do not exist, for each client address."""
ANSWER_ROOM_BYTES = 64 * MIB
"""Of all large answers that are on their way out, together."""
BODY_ROOM_BYTES = 32 * MIB
"""Of all JSON bodies that are on their way in, together, without the files inside them. At least one largest body."""
UPLOAD_ROOM_BYTES = 160 * MIB
HELD_FOR_FOLDER_BYTES = 3 * MIB
"""The memory of a file on its way to a folder. To a bucket it takes `HELD_BYTES`."""

_CORS_ALLOWED = (
    "Accept",
    "Authorization",
    "Baggage",
    "Cache-Control",
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
    "If-Range",
    "Last-Event-ID",
    "Prefer",
    "Range",
    "Sentry-Trace",
    "Traceparent",
    "Tracestate",
    "User-Agent",
    "X-Requested-With",
    "X-Request-Id",
)
"""Scripts may send these to every path. Tracing adds some of them to all calls of a page."""
_SUPABASE_ALLOWED = ("apikey", "X-Client-Info", "X-Supabase-Api-Version")
_OPENAI_STAINLESS = (
    "Arch",
    "Async",
    "Custom-Event-Handler",
    "Custom-Poll-Interval",
    "Helper-Method",
    "Lang",
    "OS",
    "Package-Version",
    "Poll-Helper",
    "Raw-Response",
    "Read-Timeout",
    "Retry-Count",
    "Runtime",
    "Runtime-Version",
    "Stream-Helper",
    "Timeout",
)
_OPENAI_ALLOWED = (
    "OpenAI-Beta",
    "OpenAI-Organization",
    "OpenAI-Project",
    "X-HF-Bill-To",
    *(f"X-Stainless-{name}" for name in _OPENAI_STAINLESS),
)
_CORS_EXPOSED = (
    "Location",
    "Link",
    "ETag",
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
    "Preference-Applied",
    "X-Request-Id",
    "Accept-Ranges",
    "Content-Range",
    "Content-Disposition",
    "X-Sb-Error-Code",
    "X-Supabase-Api-Version",
    "X-Should-Retry",
    "Idempotent-Replayed",
    *(f"X-RateLimit-{part}-{of}" for part in ("Limit", "Remaining", "Reset") for of in ("Requests", "Tokens")),
)


def create_app(
    settings: Settings,
    *,
    database_url: str,
    instance_id: InstanceId | None = None,
    predecessors: Sequence[InstanceId] = (),
    siblings: Siblings = ALONE,
) -> web.Application:
    """Wire everything; start nothing. `predecessors` are instances that are known to be dead."""
    database = database_of(settings, database_url)
    reader = PooledQueries(database)
    catalog = Catalog(settings)
    lifecycle = Lifecycle()
    upstream = create_upstream(settings)
    objects = create_objects(settings)
    secret = settings.supabase_jwt_secret
    signing_key = SigningKey(None if secret is None else secret.get_secret_value())
    revocations = Revocations()
    identity = create_identity(settings, reader, signing_key, revocations)

    async def prepare() -> None:
        await prepare_database(settings, database)
        if not signing_key.is_known and settings.supabase_url is None:
            signing_key.learn(await get_or_create_signing_secret(reader))

    engine = Engine(
        settings,
        database=database,
        reader=reader,
        upstream=upstream,
        catalog=catalog,
        objects=objects,
        lifecycle=lifecycle,
        prepare=prepare,
        predecessors=predecessors,
        instance_id=instance_id,
        listening=listening_database(settings, database),
        revocations=revocations,
    )
    app = web.Application(middlewares=(serve,))
    app.on_response_prepare.append(add_headers)
    app[keys.SETTINGS] = settings
    app[keys.ALLOWED_HOSTS] = AllowedHosts(settings.host_names)
    app[keys.CATALOG] = catalog
    app[keys.UPSTREAM] = upstream
    app[keys.LIFECYCLE] = lifecycle
    app[keys.VERIFIER] = identity.verifier
    app[keys.REVOCATIONS] = revocations
    app[keys.SIGN_UP_LIMIT] = SignUpLimit(reader, settings.sign_ups_per_day)
    app[keys.ACCOUNTS] = identity.accounts
    app[keys.OBJECTS] = objects
    app[keys.METRICS] = Metrics(Sources(engine, upstream, lifecycle), reader, siblings)
    app[keys.PROXY_NETWORKS] = settings.proxy_networks
    _provide_limits(app)
    _provide_engine(app, engine, reader)
    _provide_files(app)
    for resource in RESOURCES:
        add_routes(app, resource.routes())
    if identity.gotrue is not None:
        app[keys.GOTRUE] = identity.gotrue
        add_routes(app, gotrue.routes())
    for route in app.router.routes():
        # By default aiohttp says "100 Continue" before any middleware has seen the request; bodies.py says it in time.
        route._expect_handler = _say_nothing_yet  # noqa: SLF001 - else every single route would have to name it
    _allow_origins(app, settings.allowed_origins)

    # In the order of their start; the reverse is the order of their end.
    app.cleanup_ctx.extend(
        [
            _connections(reader),
            _identity(identity),
            _inference(upstream),
            _files(objects),
            _work(engine),
            _metrics(app[keys.METRICS]),
        ]
    )
    return app


async def _say_nothing_yet(_request: web.Request) -> None:
    """A body is only asked for when somebody is going to read it."""


def _connections(reader: PooledQueries) -> Context:
    async def context(_app: web.Application) -> AsyncIterator[None]:
        await reader.open()
        try:
            yield
        finally:
            await reader.close()

    return context


def _identity(identity: Identity) -> Context:
    async def context(_app: web.Application) -> AsyncIterator[None]:
        async with identity.open():
            yield

    return context


def _inference(upstream: Upstream) -> Context:
    async def context(_app: web.Application) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await upstream.close()

    return context


def _files(objects: Objects) -> Context:
    async def context(_app: web.Application) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await objects.close()

    return context


def _work(engine: Engine) -> Context:
    async def context(_app: web.Application) -> AsyncIterator[None]:
        engine.start()
        try:
            yield
        finally:
            await engine.stop()

    return context


def _metrics(metrics: Metrics) -> Context:
    async def context(_app: web.Application) -> AsyncIterator[None]:
        async with metrics.open():
            yield

    return context


def _provide_engine(app: web.Application, engine: Engine, reader: PooledQueries) -> None:
    """Provide the parts of the engine that routes use, each under its own key."""
    settings = app[keys.SETTINGS]
    app[keys.ENGINE] = engine
    app[keys.READER] = reader
    app[keys.CREATE_LIMITER] = engine.rates
    app[keys.FEEDS] = engine.feeds
    app[keys.KEY_CACHE] = engine.key_cache
    app[keys.API_KEYS] = ApiKeys(reader, on_revoked=engine.recheck_keys)
    app[keys.USAGE] = UsageHistory(reader)
    admission = Admission(
        journal=engine.journal,
        reader=reader,
        queue=engine.queue,
        slots=engine.slots,
        backlog=engine.backlog,
        workload=engine.workload,
        feeds=engine.feeds,
        lease=engine.lease,
        lifecycle=app[keys.LIFECYCLE],
        max_backlog=settings.max_backlog,
        max_backlog_per_user=settings.max_backlog_per_user,
        on_waiting=engine.announce_backlog,
    )
    app[keys.REQUESTS] = ModelRequests(
        admission=admission,
        history=History(reader),
        subscriptions=engine.subscriptions,
        feeds=engine.feeds,
        reader=reader,
        input_files=InputFiles(reader),
        catalog=app[keys.CATALOG],
        upstream=app[keys.UPSTREAM],
        rates=app[keys.CREATE_LIMITER],
        concurrency=ConcurrencyLimiter(),
        runs=engine,
        deadline_s=settings.deadline_s,
        on_deleted=engine.collector.wake,
    )


def _provide_files(app: web.Application) -> None:
    """Provide the parts for files that routes use. The engine has those that generators use."""
    settings, engine, reader = app[keys.SETTINGS], app[keys.ENGINE], app[keys.READER]
    app[keys.FILES] = FileFinder(reader)
    app[keys.UPLOAD_MEMORY] = MemoryBudget("uploads", UPLOAD_ROOM_BYTES, retry_after_s=5)
    app[keys.UPLOADS] = Uploads(
        reader,
        app[keys.OBJECTS],
        collector=engine.collector,
        lease=engine.lease,
        max_bytes=settings.max_upload_mb * MIB,
        quota_bytes=settings.upload_quota_mb * MIB or None,
        held_bytes=files.HELD_BYTES if settings.storage_url else HELD_FOR_FOLDER_BYTES,
    )


def _provide_limits(app: web.Application) -> None:
    settings = app[keys.SETTINGS]
    app[keys.RESPONSE_MEMORY] = MemoryBudget("large answers", ANSWER_ROOM_BYTES)
    body_room = max(BODY_ROOM_BYTES, settings.max_body_mb * MIB)
    share = max(body_room // 2, settings.max_body_mb * MIB)
    app[keys.BODY_TURNS] = asyncio.Lock()
    app[keys.BODY_MEMORY] = MemoryBudget("bodies", body_room, share=share)
    app[keys.READ_LIMITER] = RateLimiter("read", settings.rate_limit_per_minute * READS_PER_CREATE)
    app[keys.AUTH_LIMITER] = RateLimiter("auth", settings.auth_rate_limit_per_minute)
    is_limited = settings.auth_rate_limit_per_minute > 0
    app[keys.REFRESH_LIMITER] = RateLimiter("refresh", REFRESHES_PER_MINUTE if is_limited else 0)
    app[keys.GUESS_LIMITER] = RateLimiter("unknown-key", UNKNOWN_KEYS_PER_MINUTE if is_limited else 0)


def _allow_origins(app: web.Application, origins: Sequence[str]) -> None:
    """CORS without credentials: tokens travel in a header that scripts set themselves."""

    def allow(*headers: str) -> AllowedOrigins[aiohttp_cors.ResourceOptions]:
        options = aiohttp_cors.ResourceOptions(
            allow_credentials=False,
            expose_headers=_CORS_EXPOSED,
            allow_headers=(*_CORS_ALLOWED, *headers),
            max_age=600,
        )
        return AllowedOrigins(origins, options)

    preflights = {OPENAI_PREFIX: allow(*_OPENAI_ALLOWED), "": allow(*_SUPABASE_ALLOWED)}
    app[keys.ALLOWED_ORIGINS] = preflights[""]
    cors = aiohttp_cors.CorsConfig(app, router_adapter=CorsRouter(app.router, preflights[""], preflights=preflights))
    for route in list(app.router.routes()):
        cors.add(route)
