"""Where connections out of a sandbox may go: named profiles, which `code.egress` of a role chooses."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field

from sandbox_server.guards.web import MOST_TUNNELS, EgressLimits
from sandbox_server.policy.schema.base import (
    AllowRule,
    Bytes,
    Duration,
    Name,
    PerTime,
    Rule,
    SecretRef,
    Strict,
)
from sandbox_server.policy.schema.web import HeaderName, Method, NetworkText, PathText, Port, _host
from sandbox_server.policy.units import Rate

ALIASES: Final = ("@python-index", "@npm-index")
"""Package indexes, by what they are: resolved from pip's and npm's own configuration."""

_LIMITS: Final = EgressLimits()


def _some(rate: Rate) -> Rate:
    if rate.count < 1:
        raise ValueError(
            "at least one: without any, nothing could ever get out; leave the rules away instead"
        )
    return rate


Pace = Annotated[PerTime, AfterValidator(_some)]
Life = Annotated[Duration, Field(ge=1, le=24 * 3600)]


def _egress_host(text: str) -> str:
    if text.startswith("@"):
        if text not in ALIASES:
            raise ValueError(f"unknown alias, known are {', '.join(ALIASES)}")
        return text
    return _host(text)


def _entry(value: object) -> object:
    """`example.org:443` is short for a rule that says no more than that."""
    return {"hosts": (value,)} if isinstance(value, str) else value


EgressHost = Annotated[str, AfterValidator(_egress_host)]


class EgressAllow(AllowRule):
    """Without a port anywhere: 443. `methods` and `paths` are enforced where they can be seen: in plain
    HTTP, and in TLS that the operator lets the server open (`terminate`). `cache`, which needs that: files of
    packages are kept on the host, and the next sandbox gets them from there."""

    hosts: tuple[EgressHost, ...]
    ports: tuple[Port, ...] | None = None
    methods: tuple[Method, ...] | None = None
    paths: tuple[PathText, ...] | None = None
    opaque: bool = False
    terminate: bool = False
    cache: bool = False
    inject: dict[HeaderName, SecretRef] = Field(default_factory=dict)
    addresses: tuple[NetworkText, ...] = ()


class EgressDeny(Rule):
    hosts: tuple[EgressHost, ...]
    ports: tuple[Port, ...] | None = None
    methods: tuple[Method, ...] | None = None
    paths: tuple[PathText, ...] | None = None


class EgressProfile(Strict):
    """`rate` and `burst` are of one principal, over all its sandboxes: connections and further requests in
    them, which wait for their turn beyond it."""

    allow: tuple[Annotated[EgressAllow, BeforeValidator(_entry)], ...] = ()
    deny: tuple[Annotated[EgressDeny, BeforeValidator(_entry)], ...] = ()
    bytes_out: Bytes = _LIMITS.bytes_out
    bytes_in: Bytes = _LIMITS.bytes_in
    tunnels: Annotated[int, Field(ge=1, le=MOST_TUNNELS)] = _LIMITS.tunnels
    idle: Life = _LIMITS.idle
    total: Life = _LIMITS.total
    rate: Pace = Rate(*_LIMITS.rate)
    burst: Annotated[int, Field(ge=1, le=100_000)] = _LIMITS.burst


class Egress(Strict):
    """`ca_bundle`: a file on the host with extra authorities, for networks whose gateway opens TLS."""

    profiles: dict[Name, EgressProfile] = Field(default_factory=dict)
    ca_bundle: str | None = None
