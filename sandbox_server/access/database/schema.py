"""A schema as text: brief for a model that has to write SQL, and nothing that its caller may not see."""

from __future__ import annotations

from collections.abc import Sequence

from sandbox_server.access.database.catalog import ColumnInfo, Relation
from sandbox_server.access.database.settings import DatabaseSettings, NamedQuery

MAX_TEXT = 64 * 1024
MAX_COMMENT = 200


def schema_text(settings: DatabaseSettings, relations: Sequence[Relation]) -> str:
    """Named queries first, then relations until there is no more room; then how many are left out."""
    lines = [f"-- {settings.name}: {settings.rules.dialect}, {settings.rules.mode}"]
    lines += [_query(name, query) for name, query in settings.queries.items()]
    size = sum(map(len, lines))
    for number, relation in enumerate(relations):
        block = _relation(relation, settings.rules.default_schema or _DEFAULT[settings.rules.dialect])
        size += sum(map(len, block)) + len(block)
        if size > MAX_TEXT:
            lines.append(f"-- and {len(relations) - number} more relations")
            break
        lines += block
    return "\n".join(lines) + "\n"


_DEFAULT = {"sqlite": "main", "postgres": "public", "mysql": ""}


def _query(name: str, query: NamedQuery) -> str:
    params = ", ".join(
        f"{each} {param.type}{'' if param.required else '?'}" for each, param in query.params.items()
    )
    operation = f" {query.operation}" if query.operation else ""
    return f"@{name}({params}){operation}{_comment(query.description)}"


def _relation(relation: Relation, default: str) -> list[str]:
    name = _called(relation.schema, relation.name, default)
    lines = [f"{relation.kind} {name}{_comment(relation.comment)}"]
    for column in relation.columns:
        lines.append(f"  {_column(column, relation, default)}")
    for key in relation.foreign_keys:
        if len(key.columns) > 1:
            target = f"{_called(key.schema, key.relation, default)}({', '.join(key.target)})"
            lines.append(f"  ({', '.join(key.columns)}) -> {target}")
    return lines


def _called(schema: str, name: str, default: str) -> str:
    return name if schema == default else f"{schema}.{name}"


def _column(column: ColumnInfo, relation: Relation, default: str) -> str:
    parts = [column.name, column.type]
    if column.name in relation.primary_key:
        parts.append("primary key")
    elif not column.nullable:
        parts.append("not null")
    for key in relation.foreign_keys:
        if key.columns == (column.name,):
            parts.append(f"-> {_called(key.schema, key.relation, default)}({', '.join(key.target)})")
    return " ".join(parts) + _comment(column.comment)


def _comment(text: str) -> str:
    text = " ".join(text.split())
    return f"  -- {text[:MAX_COMMENT]}" if text else ""
