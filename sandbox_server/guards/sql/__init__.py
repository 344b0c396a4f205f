"""SQL that a policy can be trusted with: one statement in, a verdict and the statement to run out."""

from __future__ import annotations

from collections.abc import Mapping

from sandbox_server.guards.sql.models import Dialect, Operation, SqlRules, Verdict

__all__ = ["Dialect", "Operation", "SqlRules", "Verdict", "judge"]


def judge(
    sql: str,
    rules: SqlRules,
    *,
    operation: Operation,
    columns: Mapping[str, tuple[str, ...]] | None = None,
) -> Verdict:
    """What becomes of `sql`; pure, bounded, never raises. `columns` are those of each relation that exist,
    keyed `schema.relation`. Only `Verdict.sql` may run."""
    return Verdict(False, "sql.parse", "the guard is not built yet")
