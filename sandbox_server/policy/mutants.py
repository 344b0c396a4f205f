"""The mistakes that a policy's tests must notice: a rule that denies is lost, one that allows is too wide.

Each mutant is the policy with one change. What would not load is no mutant: nobody could make that mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from sandbox_server.guards.hosts import HostPattern
from sandbox_server.policy.document import Path
from sandbox_server.policy.lint.covering import glob_covers
from sandbox_server.policy.refusals import dotted
from sandbox_server.policy.roles import closure
from sandbox_server.policy.schema.base import TOOLS
from sandbox_server.policy.schema.databases import Database
from sandbox_server.policy.schema.file import Match, PolicyFile
from sandbox_server.policy.schema.files import OPS, FileAllow

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_DROPPED = "dropped"
_PLACES = ("/workspace/**", "/tmp/**")  # noqa: S108 - in the sandbox; all else is the floor's


@dataclass(frozen=True, slots=True)
class Mutant:
    rule: str
    change: str
    file: PolicyFile


def mutants(file: PolicyFile) -> Iterator[Mutant]:
    """In the order of the file."""
    for index, principal in enumerate(file.principals or ()):
        for change, match in _wider_matches(principal.match):
            yield _mutant(file, ("principals", index, "match"), change, match)
    for name, role in file.roles.items():
        at: Path = ("roles", name)
        if role.tools:
            yield from _tools(file, (*at, "tools"))
        if role.code and role.code.packages and "*" not in role.code.packages:
            yield _mutant(file, (*at, "code", "packages"), "widened to *", ("*",))
        if role.web:
            yield from _rules(file, (*at, "web"), role.web)
        if role.files:
            yield from _rules(file, (*at, "files"), role.files)
        for key, database in role.databases.items():
            yield from _database(file, (*at, "databases", key), database)
    for name, profile in file.egress.profiles.items():
        yield from _rules(file, ("egress", "profiles", name), profile)


def _mutant(file: PolicyFile, path: Path, change: str, value: object, *, rule: Path | None = None) -> Mutant:
    return Mutant(dotted(rule or path), change, _with(file, path, value))


def _with(here: Any, path: Path, value: object) -> Any:
    """`here` with `value` at `path`: models, mappings and tuples are copied along the way."""
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(here, BaseModel):
        name = str(step)
        return here.model_copy(update={name: _with(getattr(here, name), rest, value)})
    if isinstance(here, Mapping):
        return {**here, step: _with(here[step], rest, value)}
    index = int(step)
    return (*here[:index], _with(here[index], rest, value), *here[index + 1 :])


def _without(items: tuple[Any, ...], index: int) -> tuple[Any, ...]:
    return items[:index] + items[index + 1 :]


def _wider_matches(match: Match) -> Iterator[tuple[str, Match]]:
    """Without each of its conditions."""
    for name in ("iss", "sub", "client_id"):
        if getattr(match, name) is not None:
            yield f"no {name} asked for", _match(match, {name: None})
    for claim in match.claims:
        kept = {key: value for key, value in match.claims.items() if key != claim}
        yield f"no claim {claim} asked for", _match(match, {"claims": kept})
    if match.any == "authenticated":
        yield "everyone, not only who has a token", _match(match, {"any": "everyone"})


def _match(match: Match, changed: dict[str, Any]) -> Match:
    found = match.model_copy(update=changed)
    if not (found.iss or found.sub or found.client_id or found.claims or found.any):
        return found.model_copy(update={"any": "authenticated"})
    return found


def _tools(file: PolicyFile, path: Path) -> Iterator[Mutant]:
    tools = file.roles[str(path[1])].tools
    if tools is None:
        return
    for index in range(len(tools.deny)):
        yield _mutant(
            file, (*path, "deny"), _DROPPED, _without(tools.deny, index), rule=(*path, "deny", index)
        )
    for tool in _addable(file, str(path[1])):
        yield _mutant(file, (*path, "allow"), f"with {tool}", (*tools.allow, tool))
    for index, tool in enumerate(tools.ask):
        asked_no_more = tools.model_copy(
            update={"ask": _without(tools.ask, index), "allow": (*tools.allow, tool)}
        )
        yield _mutant(file, path, "no longer asked for", asked_no_more, rule=(*path, "ask", index))


def _addable(file: PolicyFile, name: str) -> Iterator[str]:
    """Tools that would do something for the role: that it has rules for, and does not have yet."""
    line = [file.roles[each] for each in closure(file, (name,))]
    had = {
        tool for role in line if role.tools for tool in (*role.tools.allow, *role.tools.ask, *role.tools.deny)
    }
    code = any(role.code for role in line)
    useful = {
        "code_execution": code,
        "process": code,
        "sandbox": code,
        "filesystem": code and any(role.files for role in line),
        "web_api": any(role.web for role in line),
        "database": any(role.databases for role in line),
    }
    return (tool for tool in TOOLS if tool not in had and useful[tool])


def _rules(file: PolicyFile, path: Path, section: Any) -> Iterator[Mutant]:
    """Of a section with allow and deny lists."""
    for index, rule in enumerate(section.deny):
        if not rule.observe:
            place = _named((*path, "deny"), index, rule)
            yield Mutant(place, _DROPPED, _with(file, (*path, "deny"), _without(section.deny, index)))
    for index, rule in enumerate(section.allow):
        place = _named((*path, "allow"), index, rule)
        for change, wider in _wider(rule):
            if isinstance(wider, FileAllow) and _says_the_same(section.allow, index, wider):
                continue
            yield Mutant(place, change, _with(file, (*path, "allow", index), wider))


def _says_the_same(rules: tuple[FileAllow, ...], index: int, wider: FileAllow) -> bool:
    """A rule for one of the two places that there are is widened to both, and other rules give the same of
    the other place: no test could notice."""
    like = [rule.path for rule in rules if set(rule.ops) >= set(wider.ops) and rule.effect == "allow"]
    here = [*like, rules[index].path]
    return wider.path == "/**" and all(any(glob_covers(glob, place) for glob in here) for place in _PLACES)


def _named(path: Path, index: int, rule: Any) -> str:
    return f"{dotted(path)}[{rule.id or index}]"


def _wider(rule: Any) -> Iterator[tuple[str, Any]]:
    def copy(**changed: object) -> Any:
        return rule.model_copy(update=changed)

    for index, host in enumerate(getattr(rule, "hosts", ())):
        if wider := _wider_host(host):
            yield f"{host} widened to {wider}", copy(hosts=(*_without(rule.hosts, index), host, wider))
    if getattr(rule, "paths", None):
        for index, glob in enumerate(rule.paths):
            if wider_path := _wider_path(glob):
                paths = (*_without(rule.paths, index), wider_path)
                yield f"{glob} widened to {wider_path}", copy(paths=paths)
    if getattr(rule, "path", None) and (wider_path := _wider_path(rule.path)):
        yield f"{rule.path} widened to {wider_path}", copy(path=wider_path)
    for name, every in (("methods", _METHODS), ("ops", OPS), ("schemes", ("https", "http"))):
        said = getattr(rule, name, None)
        if said is not None and set(said) != set(every):
            yield f"{name} widened to all", copy(**{name: every})
    if rule.effect == "ask":
        yield "allowed without asking", copy(effect="allow")


def _wider_host(text: str) -> str:
    """`*.github.com` of `api.github.com`, of `*.a.example.com` `*.example.com`; "" if there is none."""
    if text.startswith("@"):
        return ""
    pattern = HostPattern.parse(text)
    above = (
        pattern.host
        if not pattern.wildcard and pattern.host.count(".") == 1
        else pattern.host.partition(".")[2]
    )
    port = "" if pattern.port is None else f":{pattern.port}"
    try:
        return str(HostPattern.parse(f"*.{above}{port}"))
    except ValueError:
        return ""


def _wider_path(glob: str) -> str:
    """The same, one level up: `/repos/**` of `/repos/acme/**`."""
    parts = [part for part in glob.split("/") if part]
    if parts and parts[0] == "**":
        return "/**" if len(parts) > 1 else ""
    while parts and parts[-1] == "**":
        parts.pop()
    return "/" + "/".join([*parts[:-1], "**"]) if parts else ""


def _database(file: PolicyFile, path: Path, database: Database) -> Iterator[Mutant]:
    for name in ("relations", "columns", "functions"):
        denied = getattr(database, name).deny
        for index in range(len(denied)):
            place = (*path, name, "deny")
            yield _mutant(file, place, _DROPPED, _without(denied, index), rule=(*place, index))
    for index, glob in enumerate(database.relations.allow):
        if wider := _wider_name(glob):
            yield _mutant(file, (*path, "relations", "allow", index), f"{glob} widened to {wider}", wider)
    if database.columns.allow != ("*",):
        yield _mutant(file, (*path, "columns", "allow"), "widened to *", ("*",))
    if database.functions.preset == "none":
        yield _mutant(file, (*path, "functions", "preset"), "widened to safe_builtin", "safe_builtin")
    changes: list[tuple[str, Callable[[Database], bool], str, object]] = [
        ("mode", lambda d: d.mode == "read", "widened to write", "write"),
        ("operations", lambda d: d.operations is not None, "widened to all", None),
        ("ad_hoc", lambda d: not d.ad_hoc, "any statement, not only the named queries", True),
        ("require_where", lambda d: d.require_where and d.mode == "write", "no WHERE required", False),
        ("effect", lambda d: d.effect == "ask", "allowed without asking", "allow"),
    ]
    for key, holds, change, value in changes:
        if holds(database):
            yield _mutant(file, (*path, key), change, value)


def _wider_name(glob: str) -> str:
    """`sales.*` of `sales.orders`, `*.*` of `sales.*`."""
    schema, _, relation = glob.rpartition(".")
    if relation != "*":
        return f"{schema}.*" if schema else "*"
    return "*.*" if schema not in ("", "*") else ""
