"""The one addition to a policy that a denial asks for: exact, and None where none should be proposed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from sandbox_server.execution.languages import LANGUAGES
from sandbox_server.guards.sql import never
from sandbox_server.policy.decision import Decision, Json, Request
from sandbox_server.policy.effective import SANDBOX_TOOLS, Effective
from sandbox_server.policy.schema.base import TOOLS

Tree = dict[str, Any]
_OPS: Final[Mapping[str, tuple[str, ...]]] = {
    "read": ("read",), "stat": ("list",), "list": ("list",), "search": ("read",), "write": ("write",),
    "edit": ("read", "write"), "create_dir": ("write",), "delete": ("delete",), "move": ("read", "delete"),
    "copy": ("read",),
}  # fmt: skip
_NAMED: Final = re.compile(r"(?:relation|function) ([A-Za-z_][A-Za-z0-9_.$]*) is not allowed")


def propose(granted: Effective, role: str, request: Request, decision: Decision) -> Tree | None:
    """In the shape of a policy file, with tuples for lists; `role` is the one to add to."""
    kind = decision.reason.partition(".")[0]
    if decision.reason == "tool.not_granted":
        return _tool(granted, role, request.tool)
    if kind == "code":
        return _code(role, decision, request)
    if kind == "web" and not decision.rule.startswith("floor."):
        return _web(role, decision)
    if kind == "egress" and decision.reason != "egress.denied" and "host" in decision.canonical:
        return _egress(decision)
    if decision.reason == "files.no_rule":
        return _files(granted, role, decision)
    if kind == "sql":
        return _database(granted, decision)
    return None


def _tool(granted: Effective, role: str, tool: str) -> Tree | None:
    if tool not in TOOLS:
        return None
    # A role that names no tools has the usual ones; one that names any has those alone.
    unsaid = any(not where.partition(".tools.")[2] for where in granted.tools.allow.values())
    names = (*SANDBOX_TOOLS, tool) if unsaid else (tool,)
    return {"roles": {role: {"tools": {"allow": names}}}}


def _code(role: str, decision: Decision, request: Request) -> Tree | None:
    language = decision.canonical.get("language")
    if decision.reason == "code.language" and language in LANGUAGES:
        return {"roles": {role: {"code": {"languages": {language: {}}}}}}
    wanted = request.args.get("packages")
    if decision.reason == "code.packages" and isinstance(wanted, tuple):
        names = tuple(each for each in wanted if isinstance(each, str) and each.replace("-", "").isalnum())
        return {"roles": {role: {"code": {"packages": names}}}} if names else None
    return None


def _web(role: str, decision: Decision) -> Tree | None:
    url, method = decision.canonical.get("url"), decision.canonical.get("method")
    if decision.reason in ("web.denied", "web.body", "web.address") or not isinstance(url, str):
        return None
    scheme, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    path = "/" + path.partition("?")[0].partition("#")[0]
    if "*" in path:
        return None
    rule: Tree = {"hosts": (host,), "methods": (method,), "paths": (path,)}
    if scheme != "https":
        rule["schemes"] = (scheme,)
    return {"roles": {role: {"web": {"allow": (rule,)}}}}


def _egress(decision: Decision) -> Tree | None:
    said = decision.canonical
    entry = f"{said['host']}:{said['port']}"
    return {"egress": {"profiles": {str(said["profile"]): {"allow": (entry,)}}}}


def _files(granted: Effective, role: str, decision: Decision) -> Tree | None:
    operation, rules = str(decision.canonical.get("operation")), []
    for key, ops in (("path", _OPS.get(operation, ())), ("to", ("write",))):
        path = decision.canonical.get(key)
        if isinstance(path, str):
            if not ops or set(path) & set("*?"):
                return None
            rules.append({"path": path, "ops": ops})
    # The built-in rules of a simple policy hold only as long as it has none of its own.
    if any(rule.source.startswith("built_in.") for rule in granted.files.allow):
        kept = [{"path": str(rule.glob), "ops": tuple(sorted(rule.ops))} for rule in granted.files.allow]
        rules = kept + rules
    return {"roles": {role: {"files": {"allow": tuple(rules)}}}} if rules else None


def _database(granted: Effective, decision: Decision) -> Tree | None:
    """One relation or function of a statement that may run otherwise; never another mode or operation."""
    grants = granted.databases.get(str(decision.canonical.get("database")), ())
    # The guard names one at a time, and the rest when it is asked again.
    found = _NAMED.fullmatch(decision.message)
    place = {"sql.relation": ("relations", "relations.allow"), "sql.function": ("functions", "functions")}
    section, rule = place.get(decision.reason, ("", ""))
    if not grants or not found or not section or decision.rule != f"{grants[0].rule}.{rule}":
        return None
    if section == "functions" and never(found[1]):
        return None
    return _at(grants[0].rule, {section: {"allow": (found[1],)}})


def _at(rule: str, addition: Tree) -> Tree:
    """At `roles.R.databases.D`."""
    found: Tree = addition
    for step in reversed(rule.split(".")):
        found = {step: found}
    return found


def compacted(addition: Tree) -> Tree:
    """Rules for the same hosts and methods as one, with the paths of all."""
    found: Tree = {**addition, "roles": {}} if "roles" in addition else dict(addition)
    for name, role in addition.get("roles", {}).items():
        rules = role.get("web", {}).get("allow", ())
        joined: dict[tuple[Json, ...], Tree] = {}
        for rule in rules:
            key = tuple(rule.get(each) for each in ("hosts", "methods", "schemes"))
            if key in joined:
                joined[key]["paths"] = tuple(dict.fromkeys((*joined[key]["paths"], *rule["paths"])))
            else:
                joined[key] = dict(rule)
        found["roles"][name] = {**role, "web": {"allow": tuple(joined.values())}} if rules else role
    return found
