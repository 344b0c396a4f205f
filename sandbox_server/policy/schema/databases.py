"""Databases that a role may ask, and what of them."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from sandbox_server.guards.sql.models import Dialect, Operation
from sandbox_server.policy.schema.base import Bytes, Name, Note, Seconds, SecretRef, Size, Strict

SqlGlob = Annotated[str, StringConstraints(pattern=r"^[^\s\x00-\x1f;'\"`]{1,200}$")]
FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.$]{0,127}$")]
ParamName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")]


class Relations(Strict):
    allow: tuple[SqlGlob, ...] = ()
    deny: tuple[SqlGlob, ...] = ()


class Columns(Strict):
    allow: tuple[SqlGlob, ...] = ("*",)
    deny: tuple[SqlGlob, ...] = ()


class Functions(Strict):
    preset: Literal["none", "safe_builtin"] = "none"
    allow: tuple[FunctionName, ...] = ()
    deny: tuple[FunctionName, ...] = ()


class DatabaseLimits(Strict):
    rows: Annotated[int, Field(ge=0, le=10_000_000)] = 1000
    bytes: Bytes = 1024**2
    time: Seconds = 10.0
    length: Annotated[Size, Field(ge=16, le=1024**2)] = 64 * 1024
    depth: Annotated[int, Field(ge=4, le=500)] = 100


class Param(Strict):
    """`allowed`: the only values, if any are given. `min` and `max` are the type's own values (a date as
    text), `max_length` is of strings: characters."""

    type: Literal["string", "integer", "number", "boolean", "date", "datetime"]
    note: Note | None = None
    allowed: tuple[str | int | float | bool, ...] = ()
    min: int | float | str | None = None
    max: int | float | str | None = None
    max_length: Annotated[int, Field(ge=1, le=64 * 1024)] = 1000
    optional: bool = False

    @model_validator(mode="after")
    def _bounds_are_of_its_type(self) -> Param:
        if "max_length" in self.model_fields_set and self.type != "string":
            raise ValueError("max_length is for type: string")
        least, most = (_bound(self.type, each) for each in (self.min, self.max))
        if least is not None and most is not None and least > most:
            raise ValueError("min is more than max")
        return self


def _bound(kind: str, value: int | float | str | None) -> float | None:
    """What a bound means, to be compared. Raises ValueError."""
    if value is None:
        return None
    text = isinstance(value, str)
    if kind in ("integer", "number") and not text and (kind == "number" or isinstance(value, int)):
        return float(value)
    if kind == "date" and text:
        return float(date.fromisoformat(str(value)).toordinal())
    if kind == "datetime" and text:
        found = datetime.fromisoformat(str(value))
        if found.tzinfo is not None:
            return found.timestamp()
        raise ValueError("min and max of a datetime need a zone: 2026-01-31T12:00:00+00:00")
    raise ValueError(f"min and max must be values of type: {kind}; strings and booleans have none")


class Query(Strict):
    """Called as `@name`; its parameters are written `:name`."""

    sql: Annotated[str, StringConstraints(min_length=1, max_length=64 * 1024)]
    params: dict[ParamName, Param] = Field(default_factory=dict)
    note: Note | None = None


class Database(Strict):
    """`operations` within the mode; without them all that the mode allows."""

    note: Note | None = None
    effect: Literal["allow", "ask"] = "allow"
    dsn: SecretRef
    dialect: Dialect
    mode: Literal["read", "write"] = "read"
    operations: tuple[Operation, ...] | None = None
    default_schema: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_$]{0,63}$")] | None = None
    relations: Relations = Relations()
    columns: Columns = Columns()
    functions: Functions = Functions()
    limits: DatabaseLimits = DatabaseLimits()
    queries: dict[Name, Query] = Field(default_factory=dict)
    ad_hoc: bool = True
    require_where: bool = True
    max_affected: Annotated[int, Field(ge=0, le=10_000_000)] = 1000
    returning: bool = True
