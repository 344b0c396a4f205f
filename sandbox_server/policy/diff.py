"""What a change of the policy gives and takes, role by role; and which recorded decisions it would change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel

from sandbox_server.policy.decision import Decision
from sandbox_server.policy.effective import Effective
from sandbox_server.policy.engine import decide
from sandbox_server.policy.models import Policy
from sandbox_server.policy.records import recorded
from sandbox_server.policy.roles import closure
from sandbox_server.policy.schema.file import PolicyFile, Role
from sandbox_server.policy.units import Rate, quantity_text, rate_text


@dataclass(frozen=True, slots=True)
class RoleDiff:
    """In words: `web GET https://api.github.com/repos/acme/**`; a limit as `python.wall: 10s -> 60s`."""

    gains: tuple[str, ...] = ()
    loses: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Diff:
    roles: Mapping[str, RoleDiff]
    """Only those that differ; a role that is new or gone gains or loses all that it has."""
    whole: tuple[str, ...]
    """Principals, ceilings and what else holds for all."""

    @property
    def empty(self) -> bool:
        return not self.roles and not self.whole


@dataclass(frozen=True, slots=True)
class Changed:
    """A recorded call that the new policy would answer differently."""

    principal: str
    tool: str
    resource: str
    before: str
    after: str
    rule: str
    count: int = 1


@dataclass(slots=True)
class Replay:
    """`unread` were logged without what they asked for (SQL as a hash); nothing can be said of them."""

    calls: int = 0
    unread: int = 0
    changed: list[Changed] = field(default_factory=list)


def diff(old: Policy, new: Policy) -> Diff:
    roles = {}
    for name in dict.fromkeys((*old.file.roles, *new.file.roles)):
        before, after = _Has(old, name), _Has(new, name)
        found = RoleDiff(
            tuple(sorted(after.grants - before.grants)),
            tuple(sorted(before.grants - after.grants)),
            tuple(_moved(before.numbers, after.numbers)),
        )
        if found != RoleDiff():
            roles[name] = found
    return Diff(roles, tuple(_whole(old.file, new.file)))


def replay(old: Policy, new: Policy, entries: Iterable[Mapping[str, object]]) -> Replay:
    """Both policies are asked what was asked then: a log keeps too little to compare with it alone."""
    found = Replay()
    seen: dict[Changed, int] = {}
    for entry in entries:
        if entry.get("kind", "decision") != "decision":
            continue
        found.calls += 1
        asked = recorded(entry)
        if asked is None:
            found.unread += 1
            continue
        before, after = decide(old, *asked), decide(new, *asked)
        if _answer(before) != _answer(after):
            principal, request = asked
            change = Changed(
                principal.key,
                request.tool,
                _resource(after, request.args),
                _answer(before),
                _answer(after),
                after.rule,
            )
            seen[change] = seen.get(change, 0) + 1
    found.changed = [replace(change, count=count) for change, count in seen.items()]
    return found


def _answer(decision: Decision) -> str:
    return f"{decision.effect} (observed: would deny)" if decision.would_deny else decision.effect


def _resource(decision: Decision, args: Mapping[str, Any]) -> str:
    said = decision.canonical or args
    for key in ("url", "path", "sql", "host", "language", "uri", "name"):
        if isinstance(value := said.get(key, args.get(key)), str):
            return value[:200]
    return ""


class _Has:
    """What a role has, with all that it inherits, in words; and its numbers, as they come out."""

    def __init__(self, policy: Policy, name: str) -> None:
        self.grants: set[str] = set()
        self.numbers: dict[str, str] = {}
        if name not in policy.file.roles:
            return
        for each in closure(policy.file, (name,)):
            self.grants.update(_grants(policy.file, policy.file.roles[each]))
        self.numbers.update(_numbers(policy.compiled.effective((name,))))


def _grants(file: PolicyFile, role: Role) -> Iterator[str]:
    if role.tools:
        for kind, word in (("allow", "tool"), ("ask", "tool, after asking,"), ("deny", "NOT: tool")):
            yield from (f"{word} {tool}" for tool in getattr(role.tools, kind))
    if role.code:
        yield from (f"language {name}" for name in role.code.languages)
        yield from (f"package {glob}" for glob in role.code.packages)
        profile = file.egress.profiles.get(role.code.egress or "")
        if profile:
            yield from _hosts("egress", profile)
    if role.web:
        yield from _hosts("web", role.web)
    if role.files:
        for rule in role.files.allow:
            yield from (f"{_prefix(rule)}{op} {rule.path}" for op in rule.ops)
        for deny in role.files.deny:
            yield from (f"{_prefix(deny, denies=True)}{op} {deny.path}" for op in deny.ops)
    for name, database in role.databases.items():
        yield from _database(name, database)


def _hosts(what: str, section: Any) -> Iterator[str]:
    for denies, rules in ((False, section.allow), (True, section.deny)):
        for rule in rules:
            methods = rule.methods or ("any method",)
            scheme = "/".join(getattr(rule, "schemes", None) or ("",))
            ports = "".join(f":{port}" for port in rule.ports or ())
            where = [
                f"{scheme}{'://' if scheme else ''}{host}{ports}{path}"
                for host in rule.hosts
                for path in (rule.paths or ("",))
            ]
            yield from (f"{_prefix(rule, denies=denies)}{what} {m} {w}" for m in methods for w in where)
            if not denies:
                yield from (
                    f"{what} opens {network} to {host}" for network in rule.addresses for host in rule.hosts
                )
                yield from (
                    f"{what} secret in {header} for {host}" for header in rule.inject for host in rule.hosts
                )


def _prefix(rule: Any, *, denies: bool = False) -> str:
    observed = "only observed: " if rule.observe else ""
    asking = "after asking: " if getattr(rule, "effect", "") == "ask" else ""
    return f"{'NOT: ' if denies else ''}{observed}{asking}"


def _database(name: str, database: Any) -> Iterator[str]:
    yield f"database {name} {database.mode}"
    for part in ("relations", "columns", "functions"):
        rules = getattr(database, part)
        yield from (f"database {name} {part} {glob}" for glob in rules.allow)
        yield from (f"NOT: database {name} {part} {glob}" for glob in rules.deny)
    yield from (f"database {name} query @{query}" for query in database.queries)
    if database.functions.preset != "none":
        yield f"database {name} functions of {database.functions.preset}"
    if database.ad_hoc:
        yield f"database {name} any statement within its rules"
    if database.mode == "write" and not database.require_where:
        yield f"database {name} changes without WHERE"


def _numbers(granted: Effective) -> Iterator[tuple[str, str]]:
    for language, each in granted.languages.items():
        for key, limit in each.limits.items():
            yield f"{language}.{key}", quantity_text(key, limit.value)
        profile = each.grant.profile
        yield f"{language}.image", profile.image
        yield f"{language}.runtime", profile.runtime
        yield f"{language}.seccomp", each.seccomp
    for key, limit in granted.quotas.items():
        yield f"quotas.{key}", f"{limit.value:g}" + (f" in {limit.per:g}s" if limit.per else "")
    if granted.files.max_file is not None:
        yield "files.max_file", quantity_text("memory", granted.files.max_file)
    if granted.web.allow.rules:
        for key, limit in granted.web.sources.items():
            yield f"web.{key}", f"{limit.value:g}"
    for name, grants in granted.databases.items():
        for key in ("rows", "bytes", "time", "max_affected"):
            yield f"{name}.{key}", f"{max(getattr(grant, key) for grant in grants):g}"


def _leaves(at: str, model: BaseModel) -> Iterator[tuple[str, str]]:
    for key in type(model).model_fields:
        value = getattr(model, key)
        if value is not None and value != ():
            yield f"{at}.{key}", _text(key, value)


def _text(key: str, value: object) -> str:
    if isinstance(value, Rate):
        return rate_text(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return quantity_text(key, value)
    return ", ".join(str(each) for each in value) if isinstance(value, tuple) else str(value)


def _moved(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    for key in dict.fromkeys((*before, *after)):
        if before.get(key) != after.get(key):
            yield f"{key}: {before.get(key, '-')} -> {after.get(key, '-')}"


def _whole(old: PolicyFile, new: PolicyFile) -> Iterator[str]:
    if old.enforcement != new.enforcement:
        yield f"enforcement: {old.enforcement} -> {new.enforcement}"
    for part in ("ceilings", "audit"):
        before = {key.removeprefix("."): text for key, text in _leaves("", getattr(old, part))}
        after = {key.removeprefix("."): text for key, text in _leaves("", getattr(new, part))}
        yield from (f"{part}.{line}" for line in _moved(before, after))
    sized = [_deployment(each) for each in (old, new)]
    yield from (f"{line} (from the next start on)" for line in _moved(*sized))
    yield from _listed("principals", _principals(old), _principals(new))
    yield from _listed("resources", [r.api.name for r in old.resources], [r.api.name for r in new.resources])
    for name in old.egress.profiles.keys() & new.egress.profiles.keys():
        keys = ("bytes_out", "bytes_in", "tunnels", "idle", "total", "rate", "burst")
        profiles = (old.egress.profiles[name], new.egress.profiles[name])
        pairs = [{key: _text(key, getattr(profile, key)) for key in keys} for profile in profiles]
        yield from (f"egress.profiles.{name}.{line}" for line in _moved(*pairs))


def _deployment(file: PolicyFile) -> dict[str, str]:
    written = file.deployment.model_dump(mode="json")
    return {f"deployment.{key}": str(value) for key, value in written.items()}


def _principals(file: PolicyFile) -> list[str]:
    if file.principals is None:
        return ["everyone: " + ", ".join(file.roles)]
    found = []
    for rule in file.principals:
        said = rule.match.model_dump(exclude_none=True, exclude_defaults=True)
        who = " ".join(f"{key}={value}" for key, value in said.items())
        found.append(f"{who}: {', '.join(rule.roles)}")
    return found


def _listed(what: str, old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    yield from (f"{what}: gone: {each}" for each in old if each not in new)
    yield from (f"{what}: new: {each}" for each in new if each not in old)
