"""Restricts addresses that upstream names to public ones, checked when the connection is made."""

import ipaddress
import socket
from typing import Any

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""Contains an IPv4 address in its last four bytes (RFC 6052)."""
_LAST_32_BITS = 0xFFFF_FFFF

AddressInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[Any, ...]]
"""As `getaddrinfo` gives it."""


class NotPublic(OSError):
    """The address belongs to this machine, to a private network, or is unassigned."""


def is_public(address: str) -> bool:
    """Whether this is an address of the public Internet. An address that embeds another one is judged as that one."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        if found in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(found) & _LAST_32_BITS)))
        if (inner := found.ipv4_mapped or found.sixtofour) is not None:
            return is_public(str(inner))
        if found.is_site_local:
            return False
    return found.is_global and not found.is_multicast and not found.is_reserved


def open_public_socket(info: AddressInfo) -> socket.socket:
    """A `socket_factory` of aiohttp's connector, which asks for a socket per address, names resolved.

    The check cannot be passed by a name that resolves differently the second time. Raises `NotPublic`.
    """
    family, kind, protocol, _, address = info
    if not is_public(str(address[0])):
        raise NotPublic("the address is not public")  # one wording: then aiohappyeyeballs keeps the type
    return socket.socket(family, kind, protocol)
