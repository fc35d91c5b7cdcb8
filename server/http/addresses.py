"""The address of the client of a request."""

from ipaddress import IPv4Address, IPv6Address

from aiohttp import web

from server.http import keys
from server.limits.rates import find_client_ip


def client_ip(request: web.Request) -> IPv4Address | IPv6Address | None:
    """The client's address behind the trusted proxies. None if it is invalid."""
    proxies = request.app[keys.SETTINGS].proxy_networks
    return find_client_ip(request.headers.getall("X-Forwarded-For", []), request.remote, proxies)
