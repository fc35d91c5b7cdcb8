"""The address of the client of a request."""

import functools
from ipaddress import IPv4Address, IPv6Address

from aiohttp import web

from server.http import keys
from server.http.connections import Network
from server.limits.rates import find_client_ip, network_of


def client_ip(request: web.Request) -> IPv4Address | IPv6Address | None:
    """The client's address: the peer's, or the one that trusted proxies name. None if it is invalid."""
    forwarded_for = tuple(request.headers.getall("X-Forwarded-For", ()))
    return _find(forwarded_for, request.remote, request.app[keys.PROXY_NETWORKS])


def rate_key(request: web.Request) -> str:
    """The key of the client's address in limits of rates. All invalid addresses share one key."""
    address = client_ip(request)
    return "unknown" if address is None else network_of(address)


@functools.lru_cache(maxsize=4096)
def _find(
    forwarded_for: tuple[str, ...], peer: str | None, trusted: tuple[Network, ...]
) -> IPv4Address | IPv6Address | None:
    return find_client_ip(forwarded_for, peer, trusted)
