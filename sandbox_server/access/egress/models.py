"""What the proxy asks, what it is told, and what it reports."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from anyio.abc import ByteStream

from sandbox_server.execution.egress import EgressAccess
from sandbox_server.guards.addresses import IPAddress
from sandbox_server.guards.web import EgressGrant

Scheme = Literal["http", "https"]
Verdict = Literal["allowed", "denied", "failed"]
Kind = Literal["connect", "socks5", "http", "none"]
"""What a program has asked for: a tunnel in one of two ways, a request that is seen; or nothing at all."""


@dataclass(frozen=True, slots=True)
class Connect:
    """What a program wants to reach. `host` is canonical (IPv6 in brackets). `scheme` is https for a tunnel;
    `method` and `path` are None where they can't be seen, which is in a tunnel that is not terminated and
    at the opening of any."""

    profile: str
    host: str
    port: int
    scheme: Scheme
    method: str | None = None
    path: str | None = None
    principal: str = field(default="", compare=False)
    who: object = field(default=None, compare=False, repr=False)
    """Whose program it is, as in `EgressAccess`."""


Judge = Callable[[Connect], EgressGrant]
"""Raises PolicyDenied; whatever else it raises is a denial, too. Must not block."""

Resolve = Callable[[str, int, str], Awaitable[Sequence[IPAddress]]]
"""The addresses of a name, for a port, on behalf of a principal. Raises OSError."""

Dial = Callable[[IPAddress, int], Awaitable[ByteStream]]
"""Raises OSError."""

Secrets = Callable[[str], str]
"""The value of a secret. Raises ConfigError if there is none of that name."""

Addresses = Callable[[], Iterable[IPAddress]]

Spend = Callable[[EgressAccess, int], str]
"""Counts what a program has sent, before it goes on. The limit that it is over, or an empty string."""


@dataclass(frozen=True, slots=True)
class ConnectionRecord:
    """One connection, or one request of plain HTTP, after its end. `reason` says why it was refused or
    ended early; it never holds a path, a header or what was sent. Bytes as the program sent and got them."""

    principal: str
    profile: str
    scheme: str
    host: str
    port: int
    method: str | None
    rule: str
    verdict: Verdict
    reason: str
    address: str
    bytes_out: int
    bytes_in: int
    seconds: float
    who: object = field(default=None, compare=False, repr=False)
    cached: bool = False
    """The answer came from the host's own store; nobody was connected to."""
    kind: Kind = "none"
    pattern: str = ""
    """The policy's own that allowed the host."""


OnConnection = Callable[[ConnectionRecord], None]


class Refused(Exception):
    """A connection that is not made. `status` is the HTTP answer, `socks` the SOCKS reply."""

    def __init__(
        self,
        message: str,
        *,
        rule: str = "floor.egress",
        hint: str = "",
        status: int = 403,
        socks: int = 2,
        verdict: Verdict = "denied",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.rule = rule
        self.hint = hint
        self.status = status
        self.socks = socks
        self.verdict: Verdict = verdict
        self.told = False
        """It is on record: the tunnel that such a request came by was not refused with it."""
