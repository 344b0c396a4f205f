"""SQL that a policy can be trusted with: one statement in, a verdict and the statement to run out.

A layer, not the boundary: the database's own role, read-only transactions and limits hold behind it.
"""

from sandbox_server.guards.sql.binds import placed
from sandbox_server.guards.sql.cache import Judges, SqlJudge
from sandbox_server.guards.sql.functions import never, safe_builtin
from sandbox_server.guards.sql.judging import judge
from sandbox_server.guards.sql.models import Dialect, Operation, SqlRules, Verdict

__all__ = [
    "Dialect",
    "Judges",
    "Operation",
    "SqlJudge",
    "SqlRules",
    "Verdict",
    "judge",
    "never",
    "placed",
    "safe_builtin",
]
