"""What one principal may do, as plain values: for `policy show` and for the resource `policy://me`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sandbox_server.policy.decision import Limit
from sandbox_server.policy.effective import Effective
from sandbox_server.policy.hostrules import HostIndex


def effective_view(granted: Effective) -> dict[str, Any]:
    """Names of secrets are not in it, nor their values."""
    return {
        "revision": granted.revision,
        "roles": list(granted.roles),
        "observe": granted.observe,
        "tools": list(granted.tools.granted()),
        "ask": [name for name in granted.tools.ask if name not in granted.tools.deny],
        "languages": {
            name: {
                "rule": each.rule,
                "image": each.grant.profile.image,
                "runtime": each.grant.profile.runtime,
                "limits": {key: _limit(limit) for key, limit in each.limits.items()},
            }
            for name, each in granted.languages.items()
        },
        "packages": [glob for glob, _ in granted.packages],
        "files": {
            "root": granted.files.root,
            "allow": [_file(rule) for rule in granted.files.allow],
            "deny": [_file(rule) for rule in granted.files.deny],
            "max_file": granted.files.max_file,
        },
        "web": _web(granted),
        "egress": {
            name: {"allow": _hosts(allow), "deny": _hosts(deny)}
            for name, (allow, deny) in granted.egress.profiles.items()
        },
        "databases": {name: [_database(each) for each in found] for name, found in granted.databases.items()},
        "quotas": {key: _limit(limit) for key, limit in granted.quotas.items()},
    }


def _limit(limit: Limit) -> dict[str, Any]:
    return {"value": limit.value, "source": limit.source} | ({"per": limit.per} if limit.per else {})


def _file(rule: Any) -> dict[str, Any]:
    found = {"rule": rule.source, "path": str(rule.glob), "ops": sorted(rule.ops)}
    return found | _marks(rule)


def _marks(rule: Any) -> dict[str, Any]:
    return {name: True for name in ("ask", "observe") if getattr(rule, name, False)}


def _web(granted: Effective) -> dict[str, Any]:
    if not granted.web.allow.rules:
        return {}
    return {
        "allow": _hosts(granted.web.allow),
        "deny": _hosts(granted.web.deny),
        "limits": {key: _limit(limit) for key, limit in granted.web.sources.items()},
    }


def _hosts(index: HostIndex) -> list[dict[str, Any]]:
    return [
        {
            "rule": rule.source,
            "hosts": [str(host) for host in rule.hosts],
            "schemes": _names(rule.schemes),
            "ports": _names(rule.ports),
            "methods": _names(rule.methods),
            "paths": _names(rule.paths),
        }
        | _marks(rule)
        for rule in index.rules
    ]


def _names(values: Iterable[object] | None) -> list[str] | None:
    return None if values is None else sorted(str(value) for value in values)


def _database(grant: Any) -> dict[str, Any]:
    rules = grant.rules
    return {
        "rule": grant.rule,
        "dialect": rules.dialect,
        "mode": rules.mode,
        "operations": sorted(grant.operations),
        "relations": list(rules.relations_allow),
        "not": [*rules.relations_deny, *rules.columns_deny],
        "columns": list(rules.columns_allow),
        "functions": len(rules.functions),
        "queries": list(grant.queries),
        "rows": grant.rows,
        "ask": grant.ask,
    }
