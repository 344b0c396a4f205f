"""The one addition to a policy that a denial asks for: exact, and None where none should be proposed."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

from sandbox_server.execution.languages import LANGUAGES
from sandbox_server.guards import sql
from sandbox_server.policy.decision import Decision, Json, Request
from sandbox_server.policy.effective import SANDBOX_TOOLS, Effective
from sandbox_server.policy.lint.data import dangerous
from sandbox_server.policy.schema.base import TOOLS

Tree = dict[str, Any]
_OPS: Final[Mapping[str, tuple[str, ...]]] = {
    "read": ("read",), "stat": ("list",), "list": ("list",), "search": ("read",), "write": ("write",),
    "edit": ("read", "write"), "create_dir": ("write",), "delete": ("delete",), "move": ("read", "delete"),
    "copy": ("read",),
}  # fmt: skip


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
        return _database(granted, request, decision)
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


def _database(granted: Effective, request: Request, decision: Decision) -> Tree | None:
    """Relations and functions of a statement that may run otherwise; never another mode or operation."""
    name = str(decision.canonical.get("database"))
    grants = granted.databases.get(name, ())
    query, operation = request.args.get("query"), request.args.get("operation", "select")
    if not grants or not isinstance(query, str) or decision.rule.endswith("]"):
        return None
    grant = grants[0]
    chosen = next((each for each in grant.operations if each == operation), None)
    if chosen is None:
        return None
    verdict = sql.judge(query, grant.rules, operation=chosen)
    addition: Tree = {}
    if decision.reason == "sql.relation":
        allowed = grant.rules.relations_allow
        new = tuple(
            each for each in verdict.relations if not any(fnmatchcase(each, glob) for glob in allowed)
        )
        addition = {"relations": {"allow": new}} if new else {}
    elif decision.reason == "sql.function":
        names = tuple(each for each in verdict.functions if each not in grant.rules.functions)
        safe = names and not any(dangerous(each) for each in names)
        addition = {"functions": {"allow": names}} if safe else {}
    return _at(grant.rule, addition) if addition else None


def _named(name: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


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
