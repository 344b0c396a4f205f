"""What a rule of the web client and of the egress proxy grants, in canonical form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from types import MappingProxyType

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class WebLimits:
    """Seconds and bytes. `body` are bytes on the wire, `decoded` after decompression."""

    total: float = 30.0
    connect: float = 5.0
    first_byte: float = 10.0
    body: int = 2 * 1024**2
    decoded: int = 8 * 1024**2
    headers: int = 64 * 1024
    redirects: int = 5
    request_body: int = 64 * 1024
    min_rate: int = 100
    """Bytes a second that a response must come with after its first `grace` seconds."""
    grace: float = 5.0
    header_lines: int = 100
    shown: int = 256 * 1024
    """Of the decoded body (or the markdown made of it), in a result."""


@dataclass(frozen=True, slots=True)
class WebGrant:
    """What a request gets from the rule that allowed it. `addresses`: reserved networks that the operator
    opened for this rule. `inject`: header to the name of a secret. `rate`: (requests, seconds) or None."""

    rule: str
    addresses: tuple[Network, ...] = ()
    inject: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    limits: WebLimits = WebLimits()
    rate: tuple[int, float] | None = None
    host: str = ""
    """The rule's pattern that the host is one of, as the policy has it."""


@dataclass(frozen=True, slots=True)
class EgressGrant:
    """What a connection out of a sandbox gets. `opaque`: TLS without a visible server name is let through.
    `terminate`: the server's own CA opens it, so that `inject` and rules for paths apply. `cache`: files of
    packages are kept on the host."""

    rule: str
    addresses: tuple[Network, ...] = ()
    opaque: bool = False
    terminate: bool = False
    inject: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    cache: bool = False
    host: str = ""
    """As in `WebGrant`."""


MOST_TUNNELS = 64
"""Of one sandbox at once: its runner takes no more."""


@dataclass(frozen=True, slots=True)
class EgressLimits:
    """Of one sandbox's profile: bytes over all its connections, seconds, and tunnels at once; and of one
    principal, how many connections and requests in `rate` (their number, seconds), `burst` of them at once.
    """

    bytes_out: int = 10 * 1024**2
    bytes_in: int = 500 * 1024**2
    tunnels: int = 32
    idle: float = 60.0
    total: float = 600.0
    rate: tuple[int, int] = (50, 1)
    burst: int = 1000
