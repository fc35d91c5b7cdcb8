"""Which addresses a stranger may send the server to."""

import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from server.inference.public_addresses import (
    GLOBAL_IPV6,
    SPECIAL_IPV4,
    SPECIAL_IPV6,
    NotPublic,
    is_public,
    open_public_socket,
)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.10",
        "0.0.0.0",  # noqa: S104 - an address of nobody
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::10.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2001:db8::1",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "168.63.129.16",
        "192.0.0.9",  # Python 3.11 calls it global
        "192.0.0.192",
        "192.88.99.1",
        "2001::1",
        "2001:20::1",
        "2002:a83f:8110::1",
        "64:ff9b::a83f:8110",
        "3fff::1",
        "5f00::1",
        "100::1",
        "4000::1",
        "1fff:ffff::1",
        "::ffff:0:808:808",
    ],
)
def test_an_address_that_not_everyone_can_have_is_refused(address: str) -> None:
    assert not is_public(address)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with pytest.raises(NotPublic):
        open_public_socket((family, socket.SOCK_STREAM, 0, "", (address, 443)))


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_a_public_address_gets_a_socket(address: str) -> None:
    assert is_public(address)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with open_public_socket((family, socket.SOCK_STREAM, 0, "", (address, 443))) as made:
        assert made.type is socket.SOCK_STREAM


@pytest.mark.parametrize("network", SPECIAL_IPV4, ids=str)
def test_p2_every_special_ipv4_network_is_refused_up_to_both_edges(network: IPv4Network) -> None:
    first, last = network.network_address, network.broadcast_address
    assert not is_public(str(first))
    assert not is_public(str(last))
    assert not is_public(f"::ffff:{last}")
    for number in (int(first) - 1, int(last) + 1):
        if 0 <= number < 2**32 and not any(IPv4Address(number) in other for other in SPECIAL_IPV4):
            assert is_public(str(IPv4Address(number)))


@pytest.mark.parametrize("network", SPECIAL_IPV6, ids=str)
def test_p2_every_special_ipv6_network_is_refused_up_to_both_edges(network: IPv6Network) -> None:
    first, last = network.network_address, network.broadcast_address
    assert not is_public(str(first))
    assert not is_public(str(last))
    for number in (int(first) - 1, int(last) + 1):
        outside = IPv6Address(number)
        if outside in GLOBAL_IPV6 and outside.sixtofour is None:
            assert is_public(str(outside))


def test_p2_only_assigned_ipv6_unicast_is_public() -> None:
    first, last = GLOBAL_IPV6.network_address, IPv6Address("3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
    assert is_public(str(first))
    assert is_public(str(last))
    assert not is_public(str(IPv6Address(int(first) - 1)))
    assert not is_public(str(IPv6Address(int(GLOBAL_IPV6.broadcast_address) + 1)))
