"""The whole file: principals, roles, and what holds for all of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from sandbox_server.policy.schema.base import BytesPerTime, Name, Note, PerTime, RuleId, Strict, ToolName
from sandbox_server.policy.schema.code import Ceilings, Code, Deployment
from sandbox_server.policy.schema.databases import Database
from sandbox_server.policy.schema.egress import Egress
from sandbox_server.policy.schema.files import Files
from sandbox_server.policy.schema.web import Resource, Web

Scalar = str | int | bool
ClaimText = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
ClaimRule = Scalar | tuple[Scalar, ...]
SiblingName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\.ya?ml$")]


class Match(Strict):
    """All that is said must hold. A list of claim values: the token has at least one of them."""

    iss: ClaimText | None = None
    sub: ClaimText | None = None
    client_id: ClaimText | None = None
    claims: dict[ClaimText, ClaimRule] = Field(default_factory=dict)
    any: Literal["authenticated", "everyone"] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Match:
        if not (self.iss or self.sub or self.client_id or self.claims or self.any):
            raise ValueError("says nothing; write any: everyone if everybody is meant")
        return self


class PrincipalRule(Strict):
    id: RuleId | None = None
    note: Note | None = None
    match: Match
    roles: tuple[Name, ...]


class Tools(Strict):
    """`ask`: granted, but the caller's human has to confirm each call."""

    allow: tuple[ToolName, ...] = ()
    ask: tuple[ToolName, ...] = ()
    deny: tuple[ToolName, ...] = ()


class Quotas(Strict):
    runs: PerTime | None = None
    burst: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    concurrent: Annotated[int, Field(ge=0, le=100_000)] | None = None
    cpu_seconds: PerTime | None = None
    egress_bytes: BytesPerTime | None = None
    sql: PerTime | None = None
    web: PerTime | None = None


class Role(Strict):
    note: Note | None = None
    inherits: tuple[Name, ...] = ()
    tools: Tools | None = None
    code: Code | None = None
    files: Files | None = None
    web: Web | None = None
    databases: dict[Name, Database] = Field(default_factory=dict)
    quotas: Quotas = Quotas()


class Audit(Strict):
    """`mask`: headers and dotted paths of arguments whose values are never written."""

    log: Literal["all", "denied", "none"] = "all"
    code: Literal["hash", "text", "none"] = "hash"
    sql: Literal["hash", "text", "none"] = "hash"
    query: Literal["hash", "text", "none"] = "hash"
    mask: tuple[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_*-]+(\.[A-Za-z0-9_*-]+)*$")], ...] = ()
    on_failure: Literal["stop", "continue"] = "stop"


class PolicyFile(Strict):
    schema_: Annotated[Literal["sandbox-policy/v1"], Field(alias="schema")]
    extends: Name | None = None
    include: tuple[SiblingName, ...] = ()
    enforcement: Literal["enforce", "observe"] = "enforce"
    ceilings: Ceilings = Ceilings()
    principals: tuple[PrincipalRule, ...] | None = None
    roles: dict[Name, Role]
    egress: Egress = Egress()
    resources: tuple[Resource, ...] = ()
    audit: Audit = Audit()
    tests: tuple[SiblingName, ...] = ()
    deployment: Deployment = Deployment()
