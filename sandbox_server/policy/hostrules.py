"""Rules by host, for the web client and for egress: compiled, and found by the host's suffixes, so that ten
thousand rules cost like the few that concern the host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import Final

from sandbox_server.guards.hosts import HostPattern, PathGlob
from sandbox_server.guards.web import Network

DEFAULT_PORTS: Final[Mapping[str, int]] = MappingProxyType({"https": 443, "http": 80})
_MOST_NEAR: Final = 24


@dataclass(frozen=True, slots=True)
class Destination:
    """What is asked for. `method` and `path` are None where nobody can see them."""

    scheme: str
    host: str
    port: int
    method: str | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class HostRule:
    """`source` is its path in the policy. None means any; of ports, where it allows: the scheme's own."""

    source: str
    hosts: tuple[HostPattern, ...]
    schemes: frozenset[str] | None = None
    ports: frozenset[int] | None = None
    methods: frozenset[str] | None = None
    paths: tuple[PathGlob, ...] | None = None
    ask: bool = False
    observe: bool = False
    opaque: bool = False
    terminate: bool = False
    cache: bool = False
    inject: Mapping[str, str] = field(default_factory=dict)
    addresses: tuple[Network, ...] = ()
    rate: tuple[int, float] | None = None
    request_body: int | None = None
    limits: Mapping[str, float] = field(default_factory=dict)

    def host_matches(self, where: Destination) -> bool:
        return any(pattern.matches(where.host) for pattern in self.hosts)

    def pattern(self, host: str) -> str:
        """The first that `host` is one of."""
        return next((str(pattern) for pattern in self.hosts if pattern.matches(host)), "")

    def port_matches(self, where: Destination) -> bool:
        for pattern in self.hosts:
            if pattern.matches(where.host):
                wanted = (pattern.port,) if pattern.port else self.ports or (DEFAULT_PORTS[where.scheme],)
                if where.port in wanted:
                    return True
        return False

    def unmet(self, where: Destination) -> str:
        """The first thing that this rule, which allows, asks for and `where` is not: "" if it allows it."""
        if self.schemes is not None and where.scheme not in self.schemes:
            return "scheme"
        if not self.port_matches(where):
            return "port"
        unseen = where.method is None and self.terminate
        if self.methods is not None and not unseen and where.method not in self.methods:
            return "method"
        if self.paths is None or unseen or self._on_path(where.path):
            return ""
        return "path"

    def _on_path(self, path: str | None) -> bool:
        return path is not None and any(glob.matches(path) for glob in self.paths or ())

    def forbids(self, where: Destination, *, seen_later: bool = False) -> bool:
        """Of a rule that denies. Where method or path can't be seen, what it says of them counts as met,
        unless the server opens the connection and judges each request in it (`seen_later`)."""
        if self.schemes is not None and where.scheme not in self.schemes:
            return False
        if self.ports is not None and where.port not in self.ports:
            return False
        if not any(p.matches(where.host) and p.port in (None, where.port) for p in self.hosts):
            return False
        if where.method is None and (self.methods is not None or self.paths is not None):
            return not seen_later
        if self.methods is not None and where.method not in self.methods:
            return False
        return self.paths is None or (
            where.path is not None and any(glob.touches(where.path) for glob in self.paths)
        )


class HostIndex:
    """Rules in the order of the file, found by host."""

    def __init__(self, rules: Iterable[HostRule]) -> None:
        self.rules = tuple(rules)
        self._exact: dict[str, list[int]] = {}
        self._below: dict[str, list[int]] = {}
        self._kin: dict[str, list[str]] = {}
        for index, rule in enumerate(self.rules):
            for pattern in rule.hosts:
                where = self._below if pattern.wildcard else self._exact
                where.setdefault(pattern.host, []).append(index)
                kin = self._kin.setdefault(_tail(pattern.host), [])
                if len(kin) < _MOST_NEAR:
                    kin.append(str(pattern))

    def about(self, host: str) -> Iterator[HostRule]:
        """Those that have a pattern for `host`."""
        found = set(self._exact.get(host, ()))
        rest = host
        while self._below and "." in rest:
            rest = rest.partition(".")[2]
            found.update(self._below.get(rest, ()))
        return (self.rules[index] for index in sorted(found))

    def near(self, host: str) -> list[str]:
        """A few patterns that `host` may have been meant for."""
        kin = self._kin.get(_tail(host), [])
        others = (str(p) for rule in self.rules[:_MOST_NEAR] for p in rule.hosts)
        return list(dict.fromkeys(islice((*kin, *others), _MOST_NEAR)))


def _tail(host: str) -> str:
    return ".".join(host.rsplit(".", 2)[-2:])
