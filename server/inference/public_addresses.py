"""Allows connections only to public addresses (against SSRF), checked when the connection is made.

The tables are the IANA registries of special-purpose addresses (RFC 6890), as of November 2026:
https://www.iana.org/assignments/iana-ipv4-special-registry and https://www.iana.org/assignments/iana-ipv6-special-registry.
`ipaddress.is_global` is not used, because its tables differ between versions of Python.
"""

import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

SPECIAL_IPV4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by the customers of a carrier; metadata of Alibaba Cloud
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # metadata of Azure; in no registry
        "169.254.0.0/16",  # link-local; metadata of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocols of the IETF; metadata of Oracle Cloud
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # relays for multicast
        "192.88.99.0/24",  # relays for 6to4
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
GLOBAL_IPV6 = IPv6Network("2000::/3")
"""All unicast addresses that IANA assigns. Everything outside is special, or not assigned."""
SPECIAL_IPV6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocols of the IETF: Teredo, benchmarks, ORCHID, AS112
        "2001:db8::/32",  # documentation
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
"""Contains an IPv4 address in its last four bytes (RFC 6052)."""
_LAST_32_BITS = 0xFFFF_FFFF

AddressInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[Any, ...]]
"""As returned by `getaddrinfo`."""


class NotPublic(OSError):
    """The address is not a public one."""


def is_public(address: str) -> bool:
    """Whether the address is public. An IPv6 address that embeds an IPv4 address is judged by that one."""
    found = ip_address(address)
    if isinstance(found, IPv6Address):
        if (inner := _embedded(found)) is None:
            return found in GLOBAL_IPV6 and not any(found in network for network in SPECIAL_IPV6)
        found = inner
    return not any(found in network for network in SPECIAL_IPV4)


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that receives what is sent to `address`: by a mapped address, NAT64 or 6to4."""
    if address in _NAT64:
        return IPv4Address(int(address) & _LAST_32_BITS)
    return address.ipv4_mapped or address.sixtofour


def open_public_socket(info: AddressInfo) -> socket.socket:
    """A `socket_factory` for aiohttp's connector, which calls it with each resolved address.

    So a name that resolves differently the second time cannot bypass the check. Raises `NotPublic`.
    """
    family, kind, protocol, _, address = info
    if not is_public(str(address[0])):
        raise NotPublic("the address is not public")  # with equal texts, aiohappyeyeballs keeps the type
    return socket.socket(family, kind, protocol)
