"""Statements by the policy that holds now."""

from __future__ import annotations

from collections.abc import Mapping

from sandbox_server.access.database.databases import Columns
from sandbox_server.access.database.granted import settings_of
from sandbox_server.access.database.settings import DatabaseSettings
from sandbox_server.enforcement.gate import Gate, admission
from sandbox_server.errors import PolicyDenied
from sandbox_server.execution.api import Caller
from sandbox_server.guards.sql.models import Operation, Verdict
from sandbox_server.policy.decision import Request
from sandbox_server.policy.engine import visible_tools
from sandbox_server.policy.grants import StatementGrant
from sandbox_server.policy.models import Policy


class DatabaseRules:
    """Implements `access.database.databases.DatabasePolicy`."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def databases(self, caller: Caller) -> Mapping[str, tuple[DatabaseSettings, ...]]:
        granted = self._gate.current.effective(caller.who)
        if "database" not in visible_tools(granted):
            return {}
        return {name: tuple(map(settings_of, grants)) for name, grants in granted.databases.items()}

    def judge(
        self, name: str, sql: str, operation: Operation, caller: Caller, columns: Columns | None
    ) -> tuple[DatabaseSettings, Verdict]:
        """What was decided when the call was admitted; never a second opinion on the same statement."""
        entered = admission()
        grant = None if entered is None else entered.decision.grant
        asked = {} if entered is None or entered.request.tool != "database" else entered.request.args
        same = (asked.get("query"), asked.get("operation", "select")) == (sql, operation)
        if not isinstance(grant, StatementGrant) or grant.database.name != name or not same:
            request = Request("database", {"database": name, "query": sql, "operation": operation})
            grant = self._gate.judge(caller.who, request, columns=columns).grant
        if not isinstance(grant, StatementGrant):
            raise PolicyDenied("the policy grants nothing for this statement", rule="default")
        return settings_of(grant.database), grant.verdict


def settings_in(policy: Policy) -> list[DatabaseSettings]:
    """Of all roles: whose connections may stay open."""
    return [
        settings_of(grant)
        for role in policy.file.roles
        for grants in policy.compiled.effective((role,)).databases.values()
        for grant in grants
    ]
