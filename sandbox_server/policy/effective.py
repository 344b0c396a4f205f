"""What a set of roles may do, all in one value: the union of what they allow, the union of what they deny,
and of every number the most permissive one, at most its ceiling."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from sandbox_server.guards.files import FileIndex, FileRule, FileRules, Glob
from sandbox_server.guards.web import EgressLimits, WebLimits
from sandbox_server.policy import hosts_of
from sandbox_server.policy.databases_of import databases_of
from sandbox_server.policy.decision import Limit
from sandbox_server.policy.grants import DatabaseGrant, LanguageGrant
from sandbox_server.policy.hostrules import HostIndex
from sandbox_server.policy.limits import RoleSet
from sandbox_server.policy.roles import closure
from sandbox_server.policy.schema.file import PolicyFile, Role
from sandbox_server.policy.schema.files import OPS
from sandbox_server.policy.units import Rate

SANDBOX_TOOLS: Final = ("code_execution", "filesystem", "process", "sandbox")
Aliases = Mapping[str, tuple[str, ...]]
"""What `@python-index` stands for: `host:port` each."""


@dataclass(frozen=True, slots=True)
class ToolRules:
    """Names of tools and where the policy says so."""

    allow: Mapping[str, str]
    ask: Mapping[str, str]
    deny: Mapping[str, str]

    def granted(self) -> tuple[str, ...]:
        return tuple(name for name in {**self.allow, **self.ask} if name not in self.deny)


@dataclass(frozen=True, slots=True)
class WebRules:
    allow: HostIndex
    deny: HostIndex
    limits: WebLimits
    sources: Mapping[str, Limit]


@dataclass(frozen=True, slots=True)
class EgressRules:
    """By profile; `limits` of each."""

    profiles: Mapping[str, tuple[HostIndex, HostIndex]]
    """Name to rules that allow and that deny."""
    limits: Mapping[str, EgressLimits]
    ca_bundle: str | None = None


@dataclass(frozen=True, slots=True)
class Effective:
    """What `roles` (with all that they inherit) may do. `observe`: the whole policy only observes.

    `quotas` are `runs`, `cpu_seconds`, `egress_bytes`, `sql`, `web` (each per so many seconds), `burst` and
    `concurrent`; one that is absent is not limited by the policy.
    """

    revision: str
    roles: tuple[str, ...]
    observe: bool
    tools: ToolRules
    languages: Mapping[str, LanguageGrant]
    packages: tuple[tuple[str, str], ...]
    """Globs of package names, and where."""
    files: FileRules
    web: WebRules
    egress: EgressRules
    databases: Mapping[str, tuple[DatabaseGrant, ...]]
    """By name; a role's rules are never mixed with those of another: any of the grants may allow."""
    quotas: Mapping[str, Limit] = field(default_factory=dict)


def build(file: PolicyFile, roles: Iterable[str], revision: str, aliases: Aliases) -> Effective:
    """`roles` as principals have them, without what they inherit."""
    everything = closure(file, roles)
    # One role for everybody, as small deployments have it, need not spell out the usual.
    simple = file.principals is None
    written = [(name, file.roles[name]) for name in everything]
    return Effective(
        revision=revision,
        roles=everything,
        observe=file.enforcement == "observe",
        tools=_tools(written, simple),
        languages=RoleSet(file, everything, revision).languages(),
        packages=tuple(
            (glob, f"roles.{name}.code.packages[{index}]")
            for name, role in written
            if role.code
            for index, glob in enumerate(role.code.packages)
        ),
        files=_files(written, simple),
        web=_web(written),
        egress=_egress(file, written, aliases),
        databases=databases_of(written),
        quotas=_quotas(file, written),
    )


def _tools(written: list[tuple[str, Role]], simple: bool) -> ToolRules:
    said: dict[str, dict[str, str]] = {"allow": {}, "ask": {}, "deny": {}}
    for name, role in written:
        for kind, found in said.items():
            for index, tool in enumerate(getattr(role.tools, kind, ())):
                found.setdefault(tool, f"roles.{name}.tools.{kind}[{index}]")
        if simple and role.tools is None and role.code is not None:
            for tool in SANDBOX_TOOLS:
                said["allow"].setdefault(tool, f"roles.{name}.code")
    return ToolRules(*(MappingProxyType(found) for found in said.values()))


def _files(written: list[tuple[str, Role]], simple: bool) -> FileRules:
    allow: list[FileRule] = []
    deny: list[FileRule] = []
    roots: list[str] = []
    most: int | None = None
    sources: dict[str, str] = {}
    for name, role in written:
        if role.files is None:
            continue
        at = f"roles.{name}.files"
        allow += [
            FileRule(Glob.parse(rule.path), frozenset(rule.ops), source(f"{at}.allow", index, rule.id),
                     rule.effect == "ask", rule.observe)
            for index, rule in enumerate(role.files.allow)
        ]  # fmt: skip
        deny += [
            FileRule(Glob.parse(rule.path), frozenset(rule.ops), source(f"{at}.deny", index, rule.id),
                     observe=rule.observe)
            for index, rule in enumerate(role.files.deny)
        ]  # fmt: skip
        if "root" in role.files.model_fields_set:
            roots.append(role.files.root)
        if role.files.max_file is not None and (most is None or role.files.max_file > most):
            most, sources["max_file"] = role.files.max_file, f"{at}.max_file"
    if simple and not any(role.files for _, role in written):
        allow = [
            FileRule(Glob.parse("/workspace/**"), frozenset(OPS), "built_in.files.workspace"),
            FileRule(Glob.parse("/tmp/**"), frozenset({"read", "list"}), "built_in.files.tmp"),  # noqa: S108
        ]
    return FileRules(FileIndex(allow), FileIndex(deny), (roots or ["/workspace"])[0], most, sources)


def _web(written: list[tuple[str, Role]]) -> WebRules:
    allow, deny = [], []
    said: dict[str, Limit] = {}
    for name, role in written:
        if role.web is None:
            continue
        at = f"roles.{name}.web"
        allow += [
            hosts_of.web_allow(rule, source(f"{at}.allow", i, rule.id))
            for i, rule in enumerate(role.web.allow)
        ]
        deny += [
            hosts_of.denying(rule, source(f"{at}.deny", i, rule.id)) for i, rule in enumerate(role.web.deny)
        ]
        for key, value in role.web.limits.model_dump(exclude_none=True).items():
            if key not in said or _more(key, value, said[key].value):
                said[key] = Limit(value, f"{at}.limits.{key}")
    built_in = WebLimits()
    sources = {
        key: said.get(key) or Limit(getattr(built_in, key), f"built_in.web.{key}")
        for key in WebLimits.__dataclass_fields__
    }
    limits = WebLimits(**{key: limit.value for key, limit in sources.items()})  # type: ignore[arg-type]
    return WebRules(HostIndex(allow), HostIndex(deny), limits, MappingProxyType(sources))


def _more(key: str, value: float, than: float) -> bool:
    """Whether `value` is the more permissive one. A minimum is so when it is less."""
    return value < than if key == "min_rate" else value > than


def _egress(file: PolicyFile, written: list[tuple[str, Role]], aliases: Aliases) -> EgressRules:
    profiles: dict[str, tuple[HostIndex, HostIndex]] = {}
    limits: dict[str, EgressLimits] = {}
    for name in dict.fromkeys(role.code.egress for _, role in written if role.code and role.code.egress):
        profile = file.egress.profiles.get(name)
        if profile is None:
            continue
        at = f"egress.profiles.{name}"
        profiles[name] = (
            HostIndex(
                hosts_of.egress_allow(rule, source(f"{at}.allow", i, rule.id), aliases)
                for i, rule in enumerate(profile.allow)
            ),
            HostIndex(
                hosts_of.denying(rule, source(f"{at}.deny", i, rule.id), aliases)
                for i, rule in enumerate(profile.deny)
            ),
        )
        limits[name] = hosts_of.egress_limits(profile)
    return EgressRules(MappingProxyType(profiles), MappingProxyType(limits), file.egress.ca_bundle)


def _quotas(file: PolicyFile, written: list[tuple[str, Role]]) -> Mapping[str, Limit]:
    best: dict[str, Limit] = {}
    for name, role in written:
        for key, value in role.quotas:
            if value is None:
                continue
            at = f"roles.{name}.quotas.{key}"
            limit = Limit(value.count, at, value.seconds) if isinstance(value, Rate) else Limit(value, at)
            if key not in best or _pace(limit) > _pace(best[key]):
                best[key] = limit
    most = file.ceilings.concurrent
    if most is not None and ("concurrent" not in best or best["concurrent"].value > most):
        best["concurrent"] = Limit(most, "ceilings.concurrent")
    return MappingProxyType(best)


def _pace(limit: Limit) -> float:
    return limit.value / (limit.per or 1)


def source(at: str, index: int, identity: str | None) -> str:
    """`roles.analyst.web.allow[gh-read]`; a rule without an id goes by its place."""
    return f"{at}[{identity or index}]"


def rules_of(effective: Effective) -> Iterator[str]:
    """The path of every rule that can decide something for these roles: what tests should cover."""
    tools = effective.tools
    for named in (tools.allow, tools.ask, tools.deny):
        yield from named.values()
    yield from (language.rule for language in effective.languages.values())
    yield from (where for _, where in effective.packages)
    indexes: tuple[Iterable[object], ...] = (effective.files.allow, effective.files.deny)
    indexes += (effective.web.allow.rules, effective.web.deny.rules)
    for both in effective.egress.profiles.values():
        indexes += tuple(index.rules for index in both)
    for rules in indexes:
        yield from (rule.source for rule in rules)  # type: ignore[attr-defined]
    for grants in effective.databases.values():
        yield from (grant.rule for grant in grants)


Build = Callable[[tuple[str, ...]], Effective]
