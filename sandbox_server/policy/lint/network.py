"""Rules for `web_api` and for egress: dead, shadowed, needless, and broader than they look."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_network

from sandbox_server.guards.hosts import HostPattern
from sandbox_server.policy.document import Path
from sandbox_server.policy.lint.covering import (
    all_covered,
    globs_disjoint,
    host_covers,
    host_keys,
    hosts_meet,
    paths_covered,
)
from sandbox_server.policy.lint.findings import Finding, observing
from sandbox_server.policy.lint.lineage import Lineage
from sandbox_server.policy.schema.egress import EgressAllow, EgressDeny, EgressProfile
from sandbox_server.policy.schema.file import PolicyFile
from sandbox_server.policy.schema.web import WebAllow, WebDeny

_WRITING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_MOST_COMPARED = 200
"""Rules for one host that a rule is compared with; the lint is no place to spend minutes."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """A rule of either kind with its place. Aliases (`@python-index`) are no hosts and stand aside."""

    path: Path
    hosts: tuple[HostPattern, ...]
    rule: WebAllow | WebDeny | EgressAllow | EgressDeny

    @property
    def name(self) -> str:
        steps = [f"[{step}]" if isinstance(step, int) else str(step) for step in self.path[:-1]]
        return ".".join(steps) + f"[{self.rule.id or self.path[-1]}]"


class _Index:
    """By host, so that ten thousand rules are compared with few each."""

    def __init__(self, rules: Sequence[_Rule]) -> None:
        self._exact: defaultdict[tuple[bool, str, str], list[_Rule]] = defaultdict(list)
        self._same: defaultdict[str, list[_Rule]] = defaultdict(list)
        self._wild: defaultdict[str, list[_Rule]] = defaultdict(list)
        self._below: defaultdict[str, list[_Rule]] = defaultdict(list)
        for rule in rules:
            for host in rule.hosts:
                for start in {_start(path) for path in rule.rule.paths or ("/**",)}:
                    self._exact[(host.wildcard, host.host, start)].append(rule)
                (self._wild if host.wildcard else self._same)[host.host].append(rule)
                labels = host.host.split(".")
                for cut in range(len(labels)):
                    self._below[".".join(labels[cut:])].append(rule)

    def above(self, host: HostPattern, of: _Rule) -> Iterator[_Rule]:
        """Those that could cover the rule `of`, by this host of it and by how its first path begins."""
        first = _start((of.rule.paths or ("/**",))[0])
        starts = [first, *(first[:at] for at, letter in enumerate(first) if letter == "/")]
        for key in host_keys(host):
            for start in starts:
                yield from self._exact.get((*key, start), ())[:_MOST_COMPARED]

    def meeting(self, host: HostPattern) -> Iterator[_Rule]:
        """Those that have a pattern which could meet `host`."""
        yield from self._below.get(host.host, ()) if host.wildcard else self._same.get(host.host, ())
        for wildcard, above in host_keys(host):
            if wildcard:
                yield from self._wild.get(above, ())


def _start(path: str) -> str:
    """The literal segments that a glob begins with: those of one that covers it are the same, or fewer."""
    kept: list[str] = []
    for part in path.split("/"):
        if "*" in part:
            break
        kept.append(part)
    return "/".join(kept)


def check(file: PolicyFile) -> Iterator[Finding]:
    lines = Lineage(file)
    allows = {
        name: _rules(("roles", name, "web", "allow"), r.web.allow) for name, r in file.roles.items() if r.web
    }
    denies = {
        name: _rules(("roles", name, "web", "deny"), r.web.deny) for name, r in file.roles.items() if r.web
    }
    for name, rules in allows.items():
        against = [rule for each in lines.of[name] for rule in denies.get(each, ())]
        yield from _shadowed(rules, against)
        yield from _repeated(rules)
        for rule in rules:
            yield from _broad(rule)
    for name, rules in denies.items():
        near = [rule for each in lines.beside(name) for rule in allows.get(each, ())]
        yield from _needless(rules, near)
    for name, profile in file.egress.profiles.items():
        yield from _profile(("egress", "profiles", name), profile)


def _profile(path: Path, profile: EgressProfile) -> Iterator[Finding]:
    allows, denies = _rules((*path, "allow"), profile.allow), _rules((*path, "deny"), profile.deny)
    yield from _shadowed(allows, denies)
    yield from _repeated(allows)
    yield from _needless(denies, allows)
    for rule in allows:
        yield from _broad(rule)
        if rule.rule.ports is None:
            for host in rule.hosts:
                if host.port is None:
                    yield Finding(
                        "no-port",
                        "warning",
                        rule.path,
                        f"{host} has no port, which means 443",
                        f"write {host}:443",
                    )


def _rules(path: Path, rules: Sequence[WebAllow | WebDeny | EgressAllow | EgressDeny]) -> list[_Rule]:
    return [
        _Rule((*path, index), tuple(_parsed(host) for host in rule.hosts if not host.startswith("@")), rule)
        for index, rule in enumerate(rules)
    ]


@lru_cache(maxsize=65536)
def _parsed(host: str) -> HostPattern:
    return HostPattern.parse(host)


def _covers(outer: _Rule, inner: _Rule) -> bool:
    a, b = outer.rule, inner.rule
    return (
        len(inner.hosts) == len(b.hosts)
        and all(any(_host_and_port(o, outer, i, inner) for o in outer.hosts) for i in inner.hosts)
        and all_covered(getattr(b, "schemes", None), getattr(a, "schemes", None))
        and all_covered(b.methods, a.methods)
        and paths_covered(b.paths, a.paths)
    )


def _host_and_port(outer: HostPattern, by: _Rule, inner: HostPattern, of: _Rule) -> bool:
    return host_covers(outer, inner) and _ports(by, outer) >= _ports(of, inner)


class _Every(frozenset[int]):
    """All ports: what a deny without ports holds for."""

    def __ge__(self, other: object) -> bool:
        return True


def _ports(rule: _Rule, host: HostPattern) -> frozenset[int]:
    if host.port is not None:
        return frozenset({host.port})
    if rule.rule.ports is not None:
        return frozenset(rule.rule.ports)
    if isinstance(rule.rule, WebDeny | EgressDeny):
        return _Every({443, 80})
    return frozenset({443} | ({80} if "http" in getattr(rule.rule, "schemes", ()) else set()))


def _shadowed(allows: Sequence[_Rule], denies: Sequence[_Rule]) -> Iterator[Finding]:
    index = _Index([deny for deny in denies if not deny.rule.observe])
    for allow in allows:
        if not allow.rule.hosts:
            yield Finding(
                "dead-rule",
                "warning",
                allow.path,
                "matches nothing: hosts is empty",
                "name hosts, or remove it",
            )
        for host in allow.hosts[:1]:
            found = next((deny for deny in index.above(host, allow) if _covers(deny, allow)), None)
            if found:
                yield Finding(
                    "shadowed-rule",
                    "warning",
                    allow.path,
                    f"never matches: {found.name} denies all of it, and deny wins",
                    "remove this rule, or narrow the one that denies",
                )


def _repeated(allows: Sequence[_Rule]) -> Iterator[Finding]:
    index = _Index(allows)
    for allow in allows:
        for host in allow.hosts[:1]:
            found = next((other for other in index.above(host, allow) if _takes_in(other, allow)), None)
            if found:
                yield Finding(
                    "shadowed-rule",
                    "warning",
                    allow.path,
                    f"allows nothing more: {found.name} takes in all of it",
                    "remove one of the two; a narrower rule needs the broader one to be narrowed",
                )


def _takes_in(other: _Rule, rule: _Rule) -> bool:
    if other is rule or not _covers(other, rule):
        return False
    # Two that say the same are reported once, at the later one.
    return other.path < rule.path or not _covers(rule, other)


def _needless(denies: Sequence[_Rule], allows: Sequence[_Rule]) -> Iterator[Finding]:
    index = _Index(allows)
    aliased = any(len(allow.hosts) < len(allow.rule.hosts) for allow in allows)
    for deny in denies:
        if aliased or any(_meet(allow, deny) for host in deny.hosts for allow in index.meeting(host)):
            continue
        yield Finding(
            "needless-deny",
            "note",
            deny.path,
            "nothing that it denies is allowed anyway",
            "keep it as a guard against later rules, or remove it",
        )


def _meet(allow: _Rule, deny: _Rule) -> bool:
    a, d = allow.rule, deny.rule
    if not any(hosts_meet(x, y) for x in allow.hosts for y in deny.hosts):
        return False
    if a.methods is not None and d.methods is not None and not set(a.methods) & set(d.methods):
        return False
    return (
        a.paths is None or d.paths is None or any(not globs_disjoint(x, y) for x in a.paths for y in d.paths)
    )


def _broad(rule: _Rule) -> Iterator[Finding]:
    allow = rule.rule
    checks: tuple[Callable[[_Rule], Iterator[Finding]], ...] = (_broad_hosts, _plain_http, _broad_networks)
    if isinstance(allow, WebAllow | EgressAllow):
        for each in checks:
            yield from each(rule)
        if allow.observe:
            yield observing((*rule.path, "observe"))


def _broad_hosts(rule: _Rule) -> Iterator[Finding]:
    writing = sorted(_WRITING & set(rule.rule.methods or ()))
    for index, host in enumerate(rule.rule.hosts):
        if host.startswith("*.") and writing and rule.rule.paths is None:
            yield Finding(
                "too-broad",
                "warning",
                (*rule.path, "hosts", index),
                f"{', '.join(writing)} to every host below {host[2:]}, on every path",
                "name the hosts, or give paths",
            )


def _plain_http(rule: _Rule) -> Iterator[Finding]:
    schemes = getattr(rule.rule, "schemes", None)
    plain = "http" in schemes if schemes is not None else 80 in (rule.rule.ports or ())
    if not plain and not any(host.port == 80 for host in rule.hosts):
        return
    inject = getattr(rule.rule, "inject", {})
    yield Finding(
        "plain-http",
        "error" if inject else "warning",
        rule.path,
        "http: anybody on the way can read and change it"
        + (f", the injected {', '.join(sorted(inject))} included" if inject else ""),
        "use https alone",
    )


def _broad_networks(rule: _Rule) -> Iterator[Finding]:
    for index, text in enumerate(getattr(rule.rule, "addresses", ())):
        network = ip_network(text)
        if network.num_addresses > 256:
            yield Finding(
                "too-broad",
                "warning",
                (*rule.path, "addresses", index),
                f"opens {network.num_addresses} reserved addresses",
                f"name the one that is meant, as in {network.network_address}/{network.max_prefixlen}",
            )
