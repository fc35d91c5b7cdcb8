"""What aiohttp needs to reach a model provider, and what its exceptions mean."""

from collections.abc import Mapping

import aiohttp
from aiohttp import hdrs, http_exceptions

from server import __version__
from server.inference.protocol import UpstreamError

CONNECT_S = 5.0
RESOLVE_AND_CONNECT_S = 10.0
_KEEP_ALIVE_S = 30.0
_DNS_CACHE_S = 60
_SPARE_CONNECTIONS = 8
"""Beside the generations: checks, lists of models, connections that are about to be closed."""

TRANSPORT_ERRORS = (aiohttp.ClientError, http_exceptions.HttpProcessingError, OSError, TimeoutError)
"""All that a fault of upstream or of the network can raise."""


def create_session(*, credentials: Mapping[str, str], connections: int) -> aiohttp.ClientSession:
    """The one session of an upstream. No cookies, and no compression, which could be a bomb or hold tokens back."""
    headers = {hdrs.USER_AGENT: f"ai-sdk-server/{__version__}", hdrs.ACCEPT_ENCODING: "identity"}
    connector = aiohttp.TCPConnector(
        limit=connections + _SPARE_CONNECTIONS,
        ttl_dns_cache=_DNS_CACHE_S,
        keepalive_timeout=_KEEP_ALIVE_S,
    )
    return aiohttp.ClientSession(
        connector=connector,
        headers=headers | dict(credentials),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        raise_for_status=False,
    )


def create_timeout(total_s: float) -> aiohttp.ClientTimeout:
    """At most `total_s`, body included; aiohttp would round it up to whole seconds, and take 0 for no limit."""
    return aiohttp.ClientTimeout(
        total=max(total_s, 0.001), connect=RESOLVE_AND_CONNECT_S, sock_connect=CONNECT_S, ceil_threshold=float("inf")
    )


def explain(error: BaseException, *, timeout_s: float, awaited: str = "answer") -> UpstreamError:
    """The meaning of one of `TRANSPORT_ERRORS`; a timeout says what it `awaited` for how long."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            words = "The model provider's address could not be found."
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            words = "A secure connection to the model provider could not be made."
        case aiohttp.ConnectionTimeoutError():
            words = "The model provider could not be reached in time."
        case TimeoutError():
            words = f"The model did not {awaited} within {timeout_s:.3g} s."
        case aiohttp.ClientConnectorError():
            words = "The model provider could not be reached."
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return UpstreamError(
                "The model provider closed the connection without an answer.", is_transient=True, is_stale=True
            )
        case aiohttp.ClientPayloadError():
            words = "The model's answer broke off before its end."
        case aiohttp.ClientResponseError() | http_exceptions.HttpProcessingError():
            words = "The model provider's answer was not valid HTTP."
        case _:
            words = "The connection to the model provider failed."
    return UpstreamError(words, is_transient=True)
