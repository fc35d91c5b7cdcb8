"""Finds out who calls: a user by an access token, or by an API key within its scopes."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

from aiohttp import hdrs, web

from server.auth.api_keys.key_format import PREFIX
from server.auth.principal import ApiKey, Principal
from server.auth.tokens import bearer_token
from server.errors import Forbidden, RateLimited, Unauthenticated
from server.http import keys
from server.http.addresses import rate_key

API_KEY = "X-Api-Key"


async def identify(request: web.Request) -> Principal:
    """The caller, by the header `Authorization` or `X-Api-Key`. Known tokens and keys need no query.

    Raises `Unauthenticated`, `Unavailable` where the credential cannot be checked now, and `RateLimited` for an address
    that tries many keys that do not exist.
    """
    given = _keys_in_header(request)
    if len(given) > 1:
        raise Unauthenticated
    token = given[0] if given else bearer_token(request.headers.getall(hdrs.AUTHORIZATION, []))
    if not token.startswith(PREFIX):
        return await request.app[keys.VERIFIER].identify(token)
    principal = request.app[keys.KEY_CACHE].find(token) or await _look_up(request, token)
    if request.app[keys.REVOCATIONS].is_revoked(principal):
        raise Unauthenticated(is_revoked=True)
    return principal


def _keys_in_header(request: web.Request) -> list[str]:
    """The API keys in `X-Api-Key`. Values of other forms are left to proxies and tools that use the same header."""
    return [value for value in request.headers.getall(API_KEY, ()) if value.startswith(PREFIX)]


def has_credentials(request: web.Request) -> bool:
    """Whether the request carries a token or a key, be it valid or not."""
    values = request.headers.getall(hdrs.AUTHORIZATION, [])
    return any(value.lower().startswith("bearer ") for value in values) or bool(_keys_in_header(request))


async def _look_up(request: web.Request, key: str) -> Principal:
    """Only keys that do not exist count, so that many clients at one address can begin at once."""
    limiter, address = request.app[keys.GUESS_LIMITER], rate_key(request)
    result = limiter.peek(address)
    if result is not None and not result.allowed:
        raise RateLimited("Too many API keys that do not exist; slow down.", retry_after_s=result.retry_after_s)
    try:
        return await request.app[keys.KEY_CACHE].look_up(key)
    except Unauthenticated:
        limiter.check(address)
        raise


def require_scope(request: web.Request, key: ApiKey) -> None:
    """Raise `Forbidden` unless the key may call the operation of this request."""
    scope = request.app[keys.SCOPES].get(request.match_info.handler)
    if scope is None:
        raise Forbidden("An API key cannot do this: sign in, and send the access token.")
    if scope not in key.scopes:
        raise Forbidden(f"This API key does not have the scope '{scope}'.")


def until_key_ends(request: web.Request, end: Callable[[], None]) -> AbstractContextManager[None]:
    """During the block, call `end` when the API key of the request is revoked or expires. Nothing for a token."""
    key = request[keys.PRINCIPAL].key
    return contextlib.nullcontext() if key is None else request.app[keys.KEY_CACHE].watch(key, end)
