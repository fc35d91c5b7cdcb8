"""Typed keys of the application's and a request's state, for app, routes and middlewares."""

import asyncio
from typing import Any

from aiohttp import web

from server.actors.feeds import Feeds
from server.auth.accounts import Accounts
from server.auth.api_keys.api_keys import ApiKeys
from server.auth.api_keys.key_cache import KeyCache
from server.auth.gotrue.gotrue_accounts import GoTrueAccounts
from server.auth.principal import Principal, Scope
from server.auth.revocations import Revocations
from server.auth.sign_up_limit import SignUpLimit
from server.auth.tokens import TokenVerifier
from server.catalog import Catalog
from server.engine import Engine
from server.files.stored import FileFinder
from server.files.uploads import Uploads
from server.http.connections import Network
from server.http.hosts import AllowedHosts
from server.http.marks import Handler
from server.http.origins import AllowedOrigins
from server.inference.events import Upstream
from server.lifecycle import Lifecycle
from server.limits.memory import MemoryBudget
from server.limits.rates import RateLimiter, RateLimitResult
from server.limits.shared_rates import SharedRateLimiter
from server.model_request import RequestId
from server.monitoring.metrics import Metrics
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
REVOCATIONS = web.AppKey("revocations", Revocations)
SIGN_UP_LIMIT = web.AppKey("sign_up_limit", SignUpLimit)
VERIFIER = web.AppKey("verifier", TokenVerifier)
API_KEYS = web.AppKey("api_keys", ApiKeys)
KEY_CACHE = web.AppKey("key_cache", KeyCache)
SCOPES: web.AppKey[dict[Handler, Scope]] = web.AppKey("scopes")
"""The scope that an API key needs, for each handler that takes API keys. The operations fill it."""
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
METRICS = web.AppKey("metrics", Metrics)
PROXY_NETWORKS: web.AppKey[tuple[Network, ...]] = web.AppKey("proxy_networks")
ALLOWED_HOSTS = web.AppKey("allowed_hosts", AllowedHosts)
ALLOWED_ORIGINS = web.AppKey("allowed_origins", AllowedOrigins[Any])
REFRESH_LIMITER = web.AppKey("refresh_limiter", RateLimiter)
GUESS_LIMITER = web.AppKey("guess_limiter", RateLimiter)

REQUEST_ID = web.RequestKey("request_id", str)
MODEL_REQUEST_ID: web.RequestKey[RequestId] = web.RequestKey("model_request_id")
"""The model request that a create made or found, for the log."""
ERROR_CODE = web.RequestKey("error_code", str)
"""The code of an error answer, for the log."""
PRINCIPAL = web.RequestKey("principal", Principal)
RATE_LIMIT: web.RequestKey[RateLimitResult | None] = web.RequestKey("rate_limit")
KEY_RATE_LIMIT = web.RequestKey("key_rate_limit", RateLimitResult)
"""The state of the own limit of an API key, for calls that it counts."""
