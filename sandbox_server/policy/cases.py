"""Tests of a policy as its author writes them: a YAML list of cases beside it."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated, Any

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from sandbox_server.policy.decision import Effect, Principal, Request
from sandbox_server.policy.document import MAX_BYTES, Malformed, Mark, parse
from sandbox_server.policy.refusals import Found, explained, refusal
from sandbox_server.policy.schema.base import Strict

MAX_CASES = 10_000


class Who(Strict):
    """Whoever is told by anything here has a token; `{}` is the caller without one."""

    iss: str | None = None
    sub: str | None = None
    client_id: str | None = None
    claims: dict[str, Any] = Field(default_factory=dict)

    def principal(self) -> Principal:
        told = self.model_fields_set
        return Principal(
            sub=self.sub or "anonymous",
            iss=self.iss,
            client_id=self.client_id,
            claims=self.claims,
            authenticated=bool(told),
        )


class Asked(Strict):
    tool: str
    args: dict[str, Any] = Field(default_factory=dict)


class Expected(Strict):
    """What is not said may be anything. `limits` are numbers in bytes and seconds."""

    decision: Effect
    rule: str | None = None
    reason: str | None = None
    would_deny: bool | None = None
    limits: dict[str, int | float] = Field(default_factory=dict)


class Case(Strict):
    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    note: str | None = None
    principal: Who = Who()
    request: Asked
    expect: Expected

    def asked(self) -> Request:
        return Request(self.request.tool, self.request.args)


_CASES: TypeAdapter[tuple[Case, ...]] = TypeAdapter(Annotated[tuple[Case, ...], Field(max_length=MAX_CASES)])


def load_cases(file: FilePath) -> tuple[Case, ...]:
    """Raises ConfigError with every place that is wrong."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise refusal(str(file), [_unread(error)]) from None
    return parse_cases(raw, source=str(file))


def parse_cases(raw: bytes, *, source: str) -> tuple[Case, ...]:
    """As `load_cases`, of bytes."""
    try:
        document = parse(raw)
    except Malformed as error:
        raise refusal(source, [Found(error.mark, error.path, error.what)]) from None
    try:
        return _CASES.validate_python(document.data)
    except ValidationError as error:
        raise refusal(source, explained(error.errors(), document)) from None


def _unread(error: OSError) -> Found:
    return Found(Mark(1, 1), (), f"can't be read: {error.strerror or error}")
