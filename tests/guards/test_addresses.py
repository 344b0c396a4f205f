"""The deny table against every spelling of an address that must not be spoken to."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.guards.addresses import METADATA, check_opened, embedded, judge

DENIED = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 127.0.0.2
127.127.127.127 169.254.1.1 172.16.0.1 172.31.255.255 192.0.0.1 192.0.2.1 192.31.196.1 192.52.193.1
192.88.99.1 192.168.0.1 192.175.48.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1
239.255.255.255 240.0.0.1 255.255.255.255 :: ::1 ::10.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1
::ffff:8.8.8.8 ::ffff:0:10.0.0.1 64:ff9b::10.0.0.1 64:ff9b::8.8.8.8 64:ff9b:1::10.0.0.1 100::1
2001::1 2001:10::1 2001:20::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:db8::1 2002:a00:1::1
2002:7f00:1:: 3fff::1 5f00::1 fc00::1 fd00::1 fe80::1 fe80::1%eth0 fec0::1 ff02::1 ff0e::1
2607:f8b0::5efe:10.0.0.1 2607:f8b0::200:5efe:7f00:1 4000::1 1fff::1
"""
PUBLIC = """
1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0
172.15.255.255 172.32.0.0 192.0.1.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0
223.255.255.255 2606:4700:4700::1111 2001:4860:4860::8888 2001:200::1 2a00::1 3ffe::1
2607:f8b0::5efe:8.8.8.8
"""


@pytest.mark.parametrize("address", DENIED.split())
def test_a_reserved_address_is_denied(address: str) -> None:
    assert judge(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC.split())
def test_a_public_address_is_not(address: str) -> None:
    assert judge(ip_address(address)) is None


EVERYTHING = (ip_network("0.0.0.0/0"), ip_network("::/0"))
SPELLINGS = """
169.254.169.254 169.254.170.2 169.254.170.23 169.254.0.23 100.100.100.200 192.0.0.192 168.63.129.16
fd00:ec2::254 fd00:ec2::23 fd20:ce::254 fe80::a9fe:a9fe ::ffff:169.254.169.254 ::169.254.169.254
64:ff9b::169.254.169.254 64:ff9b:1::a9fe:a9fe 2002:a9fe:a9fe::1 ::ffff:0:169.254.169.254
2607:f8b0::5efe:169.254.169.254 ::ffff:100.100.100.200
"""


@pytest.mark.parametrize("address", SPELLINGS.split())
def test_nothing_opens_a_metadata_address_in_any_spelling(address: str) -> None:
    assert judge(ip_address(address), EVERYTHING) == "a cloud metadata address"


@pytest.mark.parametrize("address", METADATA, ids=str)
def test_no_policy_names_a_metadata_address(address: IPv4Address | IPv6Address) -> None:
    assert "metadata" in str(check_opened(ip_network(address)))


def test_an_opened_network_is_open_and_its_neighbours_are_not() -> None:
    opened = [ip_network("10.1.2.0/30"), ip_network("::1/128")]
    assert judge(ip_address("10.1.2.3"), opened) is None
    assert judge(ip_address("::1"), opened) is None
    assert judge(ip_address("10.1.2.4"), opened)
    assert judge(ip_address("::ffff:10.1.2.3"), opened)
    assert judge(ip_address("2002:a01:203::1"), opened)


def test_an_opened_translation_opens_nothing_behind_it() -> None:
    nat64 = ip_network("64:ff9b::/96")
    assert judge(ip_address("64:ff9b::8.8.8.8"), [nat64]) is None
    assert judge(ip_address("64:ff9b::10.0.0.1"), [nat64])
    assert judge(ip_address("64:ff9b::10.0.0.1"), [nat64, ip_network("10.0.0.0/8")]) is None


@pytest.mark.parametrize(
    "address",
    [
        "64:ff9b:1:a00:0:100::",  # 10.0.0.1 behind a /48
        "64:ff9b:1:0a:00:100::",  # /56
        "64:ff9b:1:0:a:0:100:0",  # /64
        "64:ff9b:1::10.0.0.1",  # /96
        "64:ff9b:1:ffff::10.0.0.1",
    ],
)
def test_what_a_local_translation_embeds_is_found_whatever_length_its_prefix_has(address: str) -> None:
    opened = [ip_network("64:ff9b:1::/48")]
    assert "embeds" in str(judge(ip_address(address), opened))
    assert judge(ip_address(address), [*opened, ip_network("0.0.0.0/0")]) is None


@pytest.mark.parametrize(
    "address",
    [
        "64:ff9b:1:a9fe:a9:fe00::",
        "64:ff9b:1:a9:fe:a9fe::",
        "64:ff9b:1:0:a9:fea9:fe00:0",
        "64:ff9b:1:7::169.254.169.254",
        "64:ff9b:1:a9fe:a9:fe00:808:808",  # what follows it is ignored
        "64:ff9b:1:0:ffa9:fea9:fe08:808",
    ],
)
def test_no_local_translation_leads_to_a_metadata_address(address: str) -> None:
    assert judge(ip_address(address), EVERYTHING) == "a cloud metadata address"


@pytest.mark.parametrize(
    "address", ["64:ff9b:1:808:8:800::", "64:ff9b:1:0:8:808:800:0", "64:ff9b:1::8.8.8.8"]
)
def test_a_public_address_behind_an_opened_local_translation_is_reached(address: str) -> None:
    assert judge(ip_address(address), [ip_network("64:ff9b:1::/48")]) is None


def test_this_hosts_own_public_address_is_denied_unless_opened() -> None:
    own = [ip_address("8.8.4.4"), ip_address("2a00::1")]
    assert judge(ip_address("8.8.4.4"), own=own) == "an address of this host"
    assert judge(ip_address("2a00::1"), own=own)
    assert judge(ip_address("64:ff9b::8.8.4.4"), own=own)
    assert judge(ip_address("8.8.4.4"), [ip_network("8.8.4.4/32")], own) is None


@pytest.mark.parametrize(
    "network",
    [
        "0.0.0.0/0",
        "::/0",
        "0.0.0.0/8",
        "10.0.0.0/7",
        "224.0.0.0/8",
        "255.255.255.255/32",
        "ff00::/8",
        "::/127",
        "fc00::/6",
        "::ffff:0:0/96",
        "::ffff:10.0.0.0/104",
        "2000::/3",
    ],
)
def test_a_policy_may_not_open_what_nobody_has_for_himself(network: str) -> None:
    assert check_opened(ip_network(network))


@pytest.mark.parametrize(
    "network",
    [
        "10.0.0.0/8",
        "127.0.0.1/32",
        "192.168.1.0/24",
        "::1/128",
        "fd00::/8",
        "fc00::/7",
        "64:ff9b::/96",
        "240.0.0.0/8",
    ],
)
def test_a_policy_may_open_its_own(network: str) -> None:
    assert check_opened(ip_network(network)) is None


@given(st.ip_addresses(v=4))
def test_what_hides_an_address_is_never_more_open_than_it(inner: IPv4Address) -> None:
    value = int(inner)
    for hidden in (
        value,
        0xFFFF << 32 | value,
        0xFFFF << 48 | value,
        0x64FF9B << 96 | value,
        0x64FF9B0001 << 80 | value,
        0x2002 << 112 | value << 80 | 1,
        0x2607F8B0 << 96 | 0x5EFE << 32 | value,
    ):
        address = IPv6Address(hidden)
        if value > 1:
            assert inner in embedded(address) or (hidden >> 80 == 0x64FF9B0001 and value < 1 << 24)
        assert judge(address) is not None or judge(inner) is None


@given(st.ip_addresses())
def test_the_table_denies_whatever_the_standard_library_calls_private(
    address: IPv4Address | IPv6Address,
) -> None:
    # The reverse does not hold, which is why there is a table.
    mistaken = (ip_network("2001:1::/32"), ip_network("2001:3::/32"), ip_network("2001:4:112::/48"))
    if address.is_private and not any(
        address in network for network in mistaken if network.version == address.version
    ):
        assert judge(address) is not None
    if address.is_multicast or address.is_loopback or address.is_link_local or address.is_unspecified:
        assert judge(address) is not None


@pytest.mark.parametrize("text", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0"])
def test_the_systems_resolver_does_take_what_the_url_guard_refuses(text: str) -> None:
    """Why the guard of URLs exists: this is what would be connected to."""
    assert judge(ip_address(socket.getaddrinfo(text, 80)[0][4][0]))
