"""Relations and columns against a connection's rules."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from sqlglot import exp

from sandbox_server.guards.sql.models import SqlRules
from sandbox_server.guards.sql.names import (
    allowing,
    ascii_lower,
    check_bare_relation,
    could_touch,
    covers,
    denying,
    fold,
    is_system,
    relation_key,
)
from sandbox_server.guards.sql.refusal import Refused

_DEFAULT_SCHEMA = {"postgres": "public", "sqlite": "main", "mysql": ""}
ROWIDS = frozenset({"rowid", "oid", "_rowid_"})
_SYSTEM_COLUMNS = {
    "postgres": frozenset({"ctid", "tableoid", "xmin", "xmax", "cmin", "cmax"}),
    "sqlite": ROWIDS,
    "mysql": frozenset[str](),
}


class Access:
    """What one statement may see. `columns` are those that exist, by relation; without any a name is judged
    by the globs alone, and `*` is possible only where no rule could touch it."""

    def __init__(self, rules: SqlRules, columns: Mapping[str, tuple[str, ...]] | None) -> None:
        self.rules = rules
        self.dialect = rules.dialect
        self.catalogue = columns or {}
        self.default_schema = rules.default_schema or _DEFAULT_SCHEMA[rules.dialect]
        self._restricted: dict[str, bool] = {}

    # -- relations -------------------------------------------------------------------------------

    def relation(self, table: exp.Table) -> str:
        """`schema.relation`, if it is allowed."""
        name = table.this
        if not isinstance(name, exp.Identifier) or table.args.get("catalog"):
            raise Refused("sql.relation", "names of more than schema.relation are not allowed")
        check_bare_relation(name)
        schema = self._schema(table)
        own = relation_key(name, self.dialect)
        if "." in schema or "." in own:
            raise Refused("sql.relation", "names of relations with a dot in them can't be judged")
        self._judge(schema, own)
        return f"{schema}.{own}"

    def _schema(self, table: exp.Table) -> str:
        written = table.args.get("db")
        if isinstance(written, exp.Identifier):
            check_bare_relation(written)
            return relation_key(written, self.dialect)
        if not self.default_schema:
            raise Refused(
                "sql.relation", f"{table.name} has no database", hint="write it as database.relation"
            )
        return self.default_schema

    def _judge(self, schema: str, name: str) -> None:
        full = f"{schema}.{name}"
        rules = self.rules
        if (index := denying(full, rules.relations_deny)) is not None:
            raise self._no_relation(full, f"relations.deny[{index}]")
        index = allowing(full, rules.relations_allow)
        if index is None or (is_system(schema, name, self.dialect) and full not in rules.relations_allow):
            raise self._no_relation(full, "relations.allow")
        if self.catalogue and full not in self.catalogue and full not in rules.relations_allow:
            raise self._no_relation(full, "")  # there is none

    def _no_relation(self, full: str, rule: str) -> Refused:
        """The same words whether it exists or not."""
        seen = self.visible_relations()
        near = get_close_matches(full, seen, 3, 0.6)
        hint = f"did you mean {', '.join(near)}?" if near else ""
        if not near and seen:
            hint = f"allowed are {', '.join(seen[:10])}{', ...' if len(seen) > 10 else ''}"
        return Refused("sql.relation", f"relation {full} is not allowed", hint=hint, rule=rule)

    def visible_relations(self) -> list[str]:
        allow, deny = self.rules.relations_allow, self.rules.relations_deny
        names = list(self.catalogue) or [glob for glob in allow if not set(glob) & set("*?[")]
        return [name for name in names if allowing(name, allow) is not None and denying(name, deny) is None]

    # -- columns ---------------------------------------------------------------------------------

    def columns(self, relation: str) -> tuple[str, ...] | None:
        """Those that exist and may be seen, as they are called; None without a catalogue of it."""
        known = self.catalogue.get(relation)
        if known is None:
            return None
        return tuple(name for name in known if self._denied(relation, self.stored(name)) is None)

    def restricted(self, relation: str) -> bool:
        """Whether a rule might withhold a column of it."""
        if relation not in self._restricted:
            self._restricted[relation] = self._is_restricted(relation)
        return self._restricted[relation]

    def _is_restricted(self, relation: str) -> bool:
        known = self.catalogue.get(relation)
        if known is not None:
            return any(self._denied(relation, self.stored(name)) is not None for name in known)
        if any(could_touch(glob, relation) for glob in self.rules.columns_deny):
            return True
        return not any(covers(glob, relation) for glob in self.rules.columns_allow)

    def has(self, relation: str, column: str) -> bool | None:
        """Whether it has that column; None without a catalogue of it."""
        known = self.catalogue.get(relation)
        if known is None:
            return None
        if column in _SYSTEM_COLUMNS[self.dialect]:
            return True
        return any(self._same(column, self.stored(name)) for name in known)

    def check(self, relation: str, column: str) -> None:
        """Raises unless `column` of `relation` may be read (and, where the mode is write, written)."""
        if self.restricted(relation):
            if self.dialect == "sqlite" and column in ROWIDS and not self._listed(relation, column):
                raise self.no_column(relation, column, "columns")  # another name of an integer key
            if self.dialect == "mysql" and not column.isascii():
                raise Refused("sql.column", "column names that are not ASCII can't be judged here")
        if (rule := self._denied(relation, column)) is not None:
            raise self.no_column(relation, column, rule)

    def withholds(self, relation: str, column: str) -> bool:
        """Whether a rule withholds that column, should it exist. What SQLite finds no column for may be a
        string in double quotes, so there only what is denied counts."""
        if self.dialect == "sqlite":
            return denying(f"{relation}.{column}", self.rules.columns_deny) is not None
        return self._denied(relation, column) is not None

    def no_column(self, relation: str, column: str, rule: str = "") -> Refused:
        """The same words, and the same rule, whether it exists or not."""
        rule = rule or self._denied(relation, column) or ""
        seen = self.columns(relation) or ()
        near = get_close_matches(column, seen, 3, 0.6) or list(seen[:12])
        hint = f"columns are {', '.join(near)}{', ...' if len(seen) > len(near) else ''}" if near else ""
        return Refused("sql.column", f"column {column} of {relation} is not allowed", hint=hint, rule=rule)

    def stored(self, name: str) -> str:
        """A column of the catalogue, as `column_key` would spell a reference to it."""
        return name if self.dialect == "postgres" else ascii_lower(name)

    def _listed(self, relation: str, column: str) -> bool:
        return column in map(self.stored, self.catalogue.get(relation, ()))

    def _same(self, one: str, other: str) -> bool:
        return one == other or (self.dialect == "mysql" and fold(one) == fold(other))

    def _denied(self, relation: str, column: str) -> str | None:
        full = f"{relation}.{column}"
        if (index := denying(full, self.rules.columns_deny)) is not None:
            return f"columns.deny[{index}]"
        return "columns.allow" if allowing(full, self.rules.columns_allow) is None else None
