"""Rules about hosts, from the file's words to `HostRule`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from typing import TypeVar

from sandbox_server.guards.hosts import HostPattern, PathGlob
from sandbox_server.guards.web import EgressLimits
from sandbox_server.policy.hostrules import HostRule
from sandbox_server.policy.schema.base import secret_name
from sandbox_server.policy.schema.egress import EgressAllow, EgressDeny, EgressProfile
from sandbox_server.policy.schema.web import WebAllow, WebDeny

Aliases = Mapping[str, tuple[str, ...]]
T = TypeVar("T")


def web_allow(rule: WebAllow, source: str) -> HostRule:
    return HostRule(
        source,
        _patterns(rule.hosts),
        schemes=frozenset(rule.schemes),
        ports=_set(rule.ports),
        methods=frozenset(rule.methods),
        paths=_paths(rule.paths),
        ask=rule.effect == "ask",
        observe=rule.observe,
        inject=_secrets(rule.inject),
        addresses=tuple(ip_network(each) for each in rule.addresses),
        rate=None if rule.rate is None else (rule.rate.count, rule.rate.seconds),
        request_body=rule.request_body,
        limits=rule.limits.model_dump(exclude_none=True),
    )


def egress_limits(profile: EgressProfile) -> EgressLimits:
    return EgressLimits(
        bytes_out=profile.bytes_out,
        bytes_in=profile.bytes_in,
        tunnels=profile.tunnels,
        idle=profile.idle,
        total=profile.total,
        rate=(profile.rate.count, int(profile.rate.seconds)),
        burst=profile.burst,
    )


def egress_allow(rule: EgressAllow, source: str, aliases: Aliases) -> HostRule:
    return HostRule(
        source,
        _patterns(rule.hosts, aliases),
        # A port says all where nothing but host and port can be seen.
        ports=_set(rule.ports) if rule.ports is not None else frozenset({443}),
        methods=_set(rule.methods),
        paths=_paths(rule.paths),
        ask=rule.effect == "ask",
        observe=rule.observe,
        opaque=rule.opaque,
        terminate=rule.terminate,
        cache=rule.cache,
        inject=_secrets(rule.inject),
        addresses=tuple(ip_network(each) for each in rule.addresses),
    )


def denying(rule: WebDeny | EgressDeny, source: str, aliases: Aliases | None = None) -> HostRule:
    return HostRule(
        source,
        _patterns(rule.hosts, aliases),
        schemes=_set(rule.schemes) if isinstance(rule, WebDeny) else None,
        ports=_set(rule.ports),
        methods=_set(rule.methods),
        paths=_paths(rule.paths),
        observe=rule.observe,
    )


def _patterns(hosts: Iterable[str], aliases: Aliases | None = None) -> tuple[HostPattern, ...]:
    texts = (
        text for host in hosts for text in ((aliases or {}).get(host, ()) if host[0] == "@" else (host,))
    )
    return tuple(HostPattern.parse(text) for text in texts)


def _paths(globs: Iterable[str] | None) -> tuple[PathGlob, ...] | None:
    return None if globs is None else tuple(PathGlob.parse(glob) for glob in globs)


def _set(items: Iterable[T] | None) -> frozenset[T] | None:
    return None if items is None else frozenset(items)


def _secrets(inject: Mapping[str, str]) -> dict[str, str]:
    return {header: name for header, value in inject.items() if (name := secret_name(value))}
