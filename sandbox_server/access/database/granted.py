"""From what the policy grants to what this package works with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sandbox_server.access.database.settings import (
    DatabaseLimits,
    DatabaseSettings,
    NamedQuery,
    Param,
    ParamType,
)
from sandbox_server.policy import grants

_TYPES: Final[Mapping[grants.ParamType, ParamType]] = {
    "string": "text",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "date": "date",
    "datetime": "timestamp",
}


def settings_of(grant: grants.DatabaseGrant) -> DatabaseSettings:
    """One role's grant of one database."""
    return DatabaseSettings(
        name=grant.name,
        dsn=grant.dsn,
        rules=grant.rules,
        limits=DatabaseLimits(
            rows=grant.rows, bytes=grant.bytes, time=grant.time, max_affected=grant.max_affected
        ),
        queries={name: _query(query) for name, query in grant.queries.items()},
    )


def _query(query: grants.NamedQuery) -> NamedQuery:
    return NamedQuery(query.sql, {name: _param(param) for name, param in query.params.items()})


def _param(param: grants.Param) -> Param:
    return Param(
        _TYPES[param.type],
        required=not param.optional,
        minimum=param.minimum,
        maximum=param.maximum,
        allowed=param.allowed,
        max_length=param.max_length,
    )
