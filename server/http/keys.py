"""Typed keys of the application's and a request's state, for app, routes and middlewares."""

import asyncio
from typing import Any

from aiohttp import web

from server.actors.feeds import Feeds
from server.auth.accounts import Accounts
from server.auth.gotrue.gotrue_accounts import GoTrueAccounts
from server.auth.principal import Principal
from server.auth.tokens import TokenVerifier
from server.catalog import Catalog
from server.engine import Engine
from server.files.stored import FileFinder
from server.files.uploads import Uploads
from server.http.origins import AllowedOrigins
from server.inference.events import Upstream
from server.lifecycle import Lifecycle
from server.limits.memory import MemoryBudget
from server.limits.rates import RateLimiter, RateLimitResult
from server.limits.shared_rates import SharedRateLimiter
from server.model_request import RequestId
from server.requests.service import ModelRequests
from server.requests.usage import UsageHistory
from server.settings import Settings
from server.storage.objects import Objects
from server.storage.reader import PooledQueries

SETTINGS = web.AppKey("settings", Settings)
LIFECYCLE = web.AppKey("lifecycle", Lifecycle)
READER = web.AppKey("reader", PooledQueries)
ENGINE = web.AppKey("engine", Engine)
REQUESTS = web.AppKey("requests", ModelRequests)
USAGE = web.AppKey("usage", UsageHistory)
FEEDS = web.AppKey("feeds", Feeds)
CATALOG = web.AppKey("catalog", Catalog)
UPSTREAM: web.AppKey[Upstream] = web.AppKey("upstream")
ACCOUNTS: web.AppKey[Accounts] = web.AppKey("accounts")
GOTRUE = web.AppKey("gotrue", GoTrueAccounts)
VERIFIER = web.AppKey("verifier", TokenVerifier)
OBJECTS = web.AppKey("objects", Objects)
UPLOADS = web.AppKey("uploads", Uploads)
UPLOAD_MEMORY = web.AppKey("upload_memory", MemoryBudget)
FILES = web.AppKey("files", FileFinder)
RESPONSE_MEMORY = web.AppKey("response_memory", MemoryBudget)
BODY_TURNS = web.AppKey("body_turns", asyncio.Lock)
BODY_MEMORY = web.AppKey("body_memory", MemoryBudget)
CREATE_LIMITER = web.AppKey("create_limiter", SharedRateLimiter)
READ_LIMITER = web.AppKey("read_limiter", RateLimiter)
AUTH_LIMITER = web.AppKey("auth_limiter", RateLimiter)
ALLOWED_ORIGINS = web.AppKey("allowed_origins", AllowedOrigins[Any])
REFRESH_LIMITER = web.AppKey("refresh_limiter", RateLimiter)

REQUEST_ID = web.RequestKey("request_id", str)
MODEL_REQUEST_ID: web.RequestKey[RequestId] = web.RequestKey("model_request_id")
"""The model request that a create made or found, for the log."""
PRINCIPAL = web.RequestKey("principal", Principal)
RATE_LIMIT: web.RequestKey[RateLimitResult | None] = web.RequestKey("rate_limit")
