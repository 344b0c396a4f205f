"""What a decision gives to those who carry it out: `Decision.grant`. Plain values, never serialised.

`web_api` gets a `guards.web.WebGrant`, egress a `guards.web.EgressGrant`; the others are here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sandbox_server.execution.grants import Grant
from sandbox_server.guards.files import FileRules
from sandbox_server.guards.sql.models import Operation, SqlRules, Verdict
from sandbox_server.policy.decision import Limit

ParamType = Literal["string", "integer", "number", "boolean", "date", "datetime"]


@dataclass(frozen=True, slots=True)
class LanguageGrant:
    """One language of a principal. `rule` grants it; `limits` are its numbers, each with where it is from."""

    grant: Grant
    rule: str
    limits: Mapping[str, Limit]
    seccomp: Literal["default", "strict"] = "default"
    files_out: int | None = None


@dataclass(frozen=True, slots=True)
class CodeGrant:
    """A call of `code_execution`, `process` or `sandbox`. `egress` are the profiles its sandbox may use."""

    language: LanguageGrant | None
    egress: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FileGrant:
    """The names in the call are judged; `rules` are for what only shows in the sandbox: entries of a listing
    or a search, and what lies in a directory that is moved, copied or deleted (`check(..., tree=True)`)."""

    rules: FileRules


@dataclass(frozen=True, slots=True)
class Param:
    type: ParamType
    allowed: tuple[str | int | float | bool, ...] = ()
    optional: bool = False
    minimum: int | float | str | None = None
    maximum: int | float | str | None = None
    max_length: int = 1000


@dataclass(frozen=True, slots=True)
class NamedQuery:
    """`sql` with parameters as `:name`."""

    sql: str
    params: Mapping[str, Param] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DatabaseGrant:
    """One database as one role grants it. `dsn` is the name of a secret. Times in seconds, sizes in bytes."""

    name: str
    rule: str
    dsn: str
    rules: SqlRules
    operations: frozenset[Operation]
    rows: int
    bytes: int
    time: float
    max_affected: int
    queries: Mapping[str, NamedQuery] = field(default_factory=dict)
    ad_hoc: bool = True
    ask: bool = False


@dataclass(frozen=True, slots=True)
class StatementGrant:
    """A statement that was judged: only `verdict.sql` may run."""

    database: DatabaseGrant
    verdict: Verdict
    query: NamedQuery | None = None


@dataclass(frozen=True, slots=True)
class ApiGrant:
    """An `api://` resource; its GET is decided as a call of `web_api` of its own. Values of `headers` that
    are secret://NAME are references."""

    name: str
    url: str
    headers: Mapping[str, str]
    ttl: float
