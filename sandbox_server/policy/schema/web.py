"""Rules for the tool `web_api`, and what they share with egress."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from sandbox_server.guards.addresses import check_opened
from sandbox_server.guards.hosts import HostPattern, PathGlob
from sandbox_server.guards.web import Network
from sandbox_server.policy.schema.base import (
    AllowRule,
    Bytes,
    Duration,
    PerTime,
    Rule,
    Seconds,
    SecretRef,
    Strict,
    secret_name,
)

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
Scheme = Literal["https", "http"]
Port = Annotated[int, Field(ge=1, le=65535)]

_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_OURS: Final = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "keep-alive",
     "expect", "proxy-connection", "proxy-authorization"}
)  # fmt: skip
_CREDENTIALS: Final = frozenset({"authorization", "cookie", "x-api-key", "api-key", "private-token"})


def _host(text: str) -> str:
    HostPattern.parse(text)
    return text


def _path(text: str) -> str:
    PathGlob.parse(text)
    return text


def _network(text: object) -> str:
    if not isinstance(text, str):
        raise ValueError("expected an address or a network such as 10.1.2.3/32")
    network: Network = ip_network(text)
    if problem := check_opened(network):
        raise ValueError(f"{text}: {problem}")
    return text


def _header(name: str) -> str:
    if not _TOKEN.fullmatch(name):
        raise ValueError("not a header's name")
    if name.lower() in _OURS:
        raise ValueError("this header belongs to the server")
    return name


def _header_value(value: str) -> str:
    if len(value) > 1024 or not value.isprintable() or not value.isascii():
        raise ValueError("a header's value is plain text on one line")
    return value


HostText = Annotated[str, AfterValidator(_host)]
PathText = Annotated[str, AfterValidator(_path)]
NetworkText = Annotated[str, BeforeValidator(_network)]
HeaderName = Annotated[str, AfterValidator(_header)]
HeaderValue = Annotated[str, AfterValidator(_header_value)]


class WebLimitsRule(Strict):
    total: Seconds | None = None
    connect: Seconds | None = None
    first_byte: Seconds | None = None
    body: Bytes | None = None
    decoded: Bytes | None = None
    headers: Bytes | None = None
    redirects: Annotated[int, Field(ge=0, le=20)] | None = None
    request_body: Bytes | None = None
    min_rate: Annotated[int, Field(ge=0, le=10**9)] | None = None


class WebAllow(AllowRule):
    """Without `ports`: the scheme's own, unless the host says one. Without `paths`: all."""

    hosts: tuple[HostText, ...]
    schemes: tuple[Scheme, ...] = ("https",)
    ports: tuple[Port, ...] | None = None
    methods: tuple[Method, ...] = ("GET", "HEAD")
    paths: tuple[PathText, ...] | None = None
    inject: dict[HeaderName, SecretRef] = Field(default_factory=dict)
    addresses: tuple[NetworkText, ...] = ()
    rate: PerTime | None = None
    request_body: Bytes | None = None
    limits: WebLimitsRule = WebLimitsRule()


class WebDeny(Rule):
    """What is absent holds for everything."""

    hosts: tuple[HostText, ...]
    schemes: tuple[Scheme, ...] | None = None
    ports: tuple[Port, ...] | None = None
    methods: tuple[Method, ...] | None = None
    paths: tuple[PathText, ...] | None = None


class Web(Strict):
    allow: tuple[WebAllow, ...] = ()
    deny: tuple[WebDeny, ...] = ()
    limits: WebLimitsRule = WebLimitsRule()


class Api(Strict):
    """Read as `api://NAME`, with a GET that the reader's own web rules must allow."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
    url: str
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict)
    ttl: Annotated[Duration, Field(ge=0, le=3600)] = 60.0
    """How long an answer is kept; 0: each reading asks anew."""

    def inline(self) -> list[str]:
        """Headers that carry a credential in plain sight."""
        return [
            name
            for name, value in self.headers.items()
            if name.lower() in _CREDENTIALS and secret_name(value) is None
        ]


class Resource(Strict):
    api: Api
