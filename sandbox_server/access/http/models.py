"""What is asked of the client and what it answers, and the parts it is made with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol

from sandbox_server.guards.addresses import IPAddress
from sandbox_server.guards.urls import Url
from sandbox_server.guards.web import WebGrant

Method = Literal["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"]

Judge = Callable[[str, Url, int], WebGrant]
"""(method, URL, bytes of the body) to what the policy grants. Raises PolicyDenied. It is asked before each
hop, so before each redirect is followed."""


@dataclass(frozen=True, slots=True)
class WebRequest:
    """`timeout` in seconds can only shorten what the rule grants; `markdown` asks for HTML as markdown."""

    method: Method
    url: Url
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    body: bytes | None = None
    content_type: str = ""
    timeout: float | None = None
    markdown: bool = False


@dataclass(frozen=True, slots=True)
class Redirect:
    """One that was followed: the answer's status, and where it led."""

    status: int
    url: str


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds, of the last hop except `total`. `connect` includes TLS."""

    resolve: float
    connect: float
    first_byte: float
    total: float


@dataclass(frozen=True, slots=True)
class Body:
    """Exactly one of the three, or none for an empty body. `json` is wrapped in a tuple: null is a value.

    `cut` says why something is missing; empty: all is there.
    """

    json: tuple[object] | None = None
    text: str | None = None
    base64: str | None = None
    cut: str = ""


@dataclass(frozen=True, slots=True)
class WebResult:
    """`headers` are those on the allowlist, lower-case; `received` are bytes of the body on the wire.

    `dropped` names headers of the request that are not the caller's to set. `shortened`: the seconds that the
    rules gave it, where the caller had asked for more.
    """

    status: int
    url: str
    headers: tuple[tuple[str, str], ...]
    body: Body
    redirects: tuple[Redirect, ...]
    rule: str
    timings: Timings
    received: int
    dropped: tuple[str, ...] = ()
    shortened: float | None = None


HopVerdict = Literal["allowed", "denied", "failed"]


@dataclass(frozen=True, slots=True)
class HopRecord:
    """One hop of one call, after its end: the first request is number 0, each redirect one more.

    `url` has no query, which is where credentials and personal data are put, and no secret that was sent.
    `pattern` is the policy's own that allowed the host, `reason` why it was denied or has failed: a code, or
    a rule's words. `status` is 0 where there was no answer. Bytes of HTTP, heads included, before TLS.
    """

    principal: str
    number: int
    method: str
    url: str
    host: str
    port: int
    rule: str
    pattern: str
    verdict: HopVerdict
    reason: str
    status: int
    address: str
    bytes_out: int
    bytes_in: int
    seconds: float


OnHop = Callable[[HopRecord], None]
"""Must not block."""


class Resolver(Protocol):
    """Names to addresses."""

    async def resolve(self, host: str, port: int, principal: str) -> Sequence[IPAddress]:
        """All addresses of `host`, which is a name in canonical form. Raises UpstreamUnreachable and Busy."""
        ...


class WebClient(Protocol):
    """What the tool needs."""

    async def fetch(self, request: WebRequest, judge: Judge, *, principal: str) -> WebResult:
        """Raises PolicyDenied, InvalidRequest, UpstreamFailed, Busy."""
        ...
