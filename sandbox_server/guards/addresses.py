"""Which addresses may be spoken to: a deny table of our own.

`ipaddress`'s own flags are no check: `is_global` is true of NAT64, 6to4 and IPv4-compatible spellings of
private addresses and of two clouds' metadata services, and `is_private` is false of a third's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from sandbox_server.guards.web import Network

IPAddress = IPv4Address | IPv6Address

METADATA: frozenset[IPAddress] = frozenset(
    ip_address(each)
    for each in (
        "169.254.169.254",  # AWS, Google, Azure, DigitalOcean, OpenStack, Oracle
        "169.254.169.253",  # AWS's resolver
        "169.254.170.2",  # ECS: credentials of tasks
        "169.254.170.23",  # EKS: credentials of pods
        "169.254.0.23",  # Tencent
        "169.254.10.10",  # Tencent's kin
        "169.254.42.42",  # Scaleway
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle
        "168.63.129.16",  # Azure's wire server
        "fd00:ec2::254",  # AWS
        "fd00:ec2::253",
        "fd00:ec2::23",  # EKS
        "fd20:ce::254",  # Google
        "fd00:42::42",  # Scaleway
        "fe80::a9fe:a9fe",  # OpenStack
    )
)
"""They hand out credentials to whoever asks; no policy opens them."""

_DENIED_V4: tuple[tuple[IPv4Network, str], ...] = tuple(
    (IPv4Network(network), what)
    for network, what in (
        ("0.0.0.0/8", "this host"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "cloud metadata"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "protocol assignments"),
        ("192.0.2.0/24", "documentation"),
        ("192.31.196.0/24", "AS112"),
        ("192.52.193.0/24", "AMT"),
        ("192.88.99.0/24", "6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("192.175.48.0/24", "AS112"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)
_UNICAST_V6 = IPv6Network("2000::/3")
"""All that is assigned to hosts on the Internet. What lies outside is denied without asking what it is."""
_DENIED_V6: tuple[tuple[IPv6Network, str], ...] = tuple(
    (IPv6Network(network), what)
    for network, what in (
        ("2001::/23", "protocol assignments (Teredo, ORCHID)"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("3fff::/20", "documentation"),
    )
)
_NEVER_OPENED: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(network), what)
    for network, what in (
        ("0.0.0.0/8", "means this host to the kernel"),
        ("224.0.0.0/4", "is multicast"),
        ("255.255.255.255/32", "is broadcast"),
        ("::/127", "means this host to the kernel, or is its loopback: open ::1/128 by itself"),
        ("ff00::/8", "is multicast"),
        ("::ffff:0:0/96", "is IPv4 in disguise: open the IPv4 network"),
    )
)
_WIDEST = {4: 8, 6: 7}
"""10.0.0.0/8 and fc00::/7 are the largest networks that somebody can have for himself."""


def judge(address: IPAddress, opened: Iterable[Network] = (), own: Iterable[IPAddress] = ()) -> str | None:
    """None for an address that may be spoken to, else what it is.

    `opened` are networks that the policy opens for this rule; they open neither metadata addresses nor,
    through an address that only embeds it (NAT64, 6to4), an IPv4 address that is itself denied.
    `own` are this host's addresses.
    """
    if isinstance(address, IPv6Address) and address.scope_id:
        return "an address with a zone"
    inner = embedded(address)
    if address in METADATA or not METADATA.isdisjoint(inner):
        return "a cloud metadata address"
    opened = tuple(opened)
    if any(address.version == network.version and address in network for network in opened):
        reason = next(filter(None, (judge(each, opened, own) for each in inner)), None)
        return None if reason is None else f"an address that embeds {reason}"
    mine = frozenset(own)
    if address in mine or not mine.isdisjoint(inner):
        return "an address of this host"
    hidden = next(filter(None, map(_reserved, inner)), None)
    return _reserved(address) or (hidden and f"an address that embeds {hidden}")


def _reserved(address: IPAddress) -> str | None:
    if isinstance(address, IPv4Address):
        what = next((what for network, what in _DENIED_V4 if address in network), None)
    elif address not in _UNICAST_V6:
        what = "outside the unicast Internet"
    else:
        what = next((what for network, what in _DENIED_V6 if address in network), None)
    return None if what is None else f"a reserved address ({what})"


def embedded(address: IPAddress) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses that a router or the kernel may make of this one."""
    if isinstance(address, IPv4Address):
        return ()
    value = int(address)
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return (address.teredo[1],)
    low, high = value & 0xFFFFFFFF, value >> 32
    # Compatible ::/96, translated ::ffff:0:0/96, NAT64 64:ff9b::/96, and ISATAP in any prefix.
    if high in (0xFFFF0000, 0x64FF9B << 64) or (high == 0 and low > 1):
        return (IPv4Address(low),)
    if value >> 80 == _LOCAL_NAT64:
        return tuple(_translated(value))
    if high & 0xFDFFFFFF == 0x5EFE:
        return (IPv4Address(low),)
    return ()


_LOCAL_NAT64 = 0x64FF9B0001
"""64:ff9b:1::/48, which a network cuts into prefixes of its own (RFC 8215)."""


def _translated(value: int) -> Iterator[IPv4Address]:
    """By every length that a translator's prefix may have there (RFC 6052): which one it has can't be seen.

    But for /96 the address is in two parts around eight bits. What follows it translators ignore, so it
    tells nothing. Readings in 0.0.0.0/8 lead nowhere, and every address has some.
    """
    readings = [value & 0xFFFFFFFF]
    for before in (16, 8, 0):
        after = 32 - before
        first = value >> 64 & ((1 << before) - 1)
        readings.append(first << after | (value >> (56 - after) & ((1 << after) - 1)))
    some = [each for each in readings if each >> 24]
    yield from map(IPv4Address, some or readings[:1])


def check_opened(network: Network) -> str | None:
    """None for a network that a policy may open, else why it may not."""
    if network.prefixlen < _WIDEST[network.version]:
        return f"{network} is wider than /{_WIDEST[network.version]}: open what is needed"
    if network.num_addresses == 1 and network.network_address in METADATA:
        return f"{network} is a cloud metadata address, which is never opened"
    for never, what in _NEVER_OPENED:
        if network.version == never.version and network.overlaps(never) and network != _LOOPBACK_V6:
            return f"{network} {what}"
    return None


_LOOPBACK_V6 = IPv6Network("::1/128")
