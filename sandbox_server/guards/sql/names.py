"""What a name in a statement is for the engine that will read it, and which names belong to the system."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from fnmatch import fnmatchcase

from sqlglot import exp

from sandbox_server.guards.sql.models import Dialect
from sandbox_server.guards.sql.refusal import Refused
from sandbox_server.guards.sql.words import words

_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

# What the grammar of one of the engines would read as something other than a name.
_RESERVED = words(
    """
    all analyse analyze and any as asc between both by call case cast check collate copy create cross
    delete desc describe distinct do drop else except execute exists explain fetch for foreign from
    grant group having in inner insert intersect into is join lateral leading left like limit load lock
    natural not null offset on or order outer partition pragma prepare primary procedure references
    replace returning revoke right select set show some table then to trailing union unique update using
    values when where window with handler kill attach detach vacuum
    """
)
# Bare, they are calls: PostgreSQL's (and some of MariaDB's) functions without parentheses.
_CALLS = words(
    """
    current_catalog current_role current_schema current_user session_user system_user user sysdate
    utc_date utc_time utc_timestamp
    """
)
_SYSTEM_SCHEMAS: dict[Dialect, frozenset[str]] = {
    "postgres": frozenset({"information_schema"}),
    "mysql": frozenset({"mysql", "information_schema", "performance_schema", "sys"}),
    "sqlite": frozenset(),
}
# Virtual tables that exist without being created, beside pragma_*.
_SQLITE_SYSTEM = words(
    """
    dbstat bytecode tables_used completion fsdir zipfile csv carray memstat stmt json_each json_tree
    jsonb_each jsonb_tree generate_series wholenumber prefixes explain
    """
)


def ascii_lower(text: str) -> str:
    """Engines fold ASCII only; Python would make `K` (Kelvin) a k."""
    return text.translate(_LOWER)


def fold(text: str) -> str:
    """The coarsest equality: what any engine might take for one name. For denying, never for allowing."""
    if text.isascii():
        return text.lower()
    plain = unicodedata.normalize("NFKD", text).casefold()
    return "".join(char for char in plain if not unicodedata.combining(char))


def relation_key(name: exp.Identifier, dialect: Dialect) -> str:
    """A schema or relation, as the engine would look it up; MariaDB's are case-sensitive on Linux."""
    if dialect == "mysql" or (dialect == "postgres" and name.quoted):
        return name.name
    return ascii_lower(name.name)


def column_key(name: exp.Identifier, dialect: Dialect) -> str:
    """A column or an alias, as the engine would look it up."""
    return name.name if dialect == "postgres" and name.quoted else ascii_lower(name.name)


def check_identifier(node: exp.Identifier) -> None:
    """What will be written without quotes must be a plain name, or it could be read as something else."""
    if not node.name or "\x00" in node.name:
        raise Refused("sql.name", "a name is empty or holds a NUL")
    if not node.quoted and not _BARE.match(node.name):
        raise Refused("sql.name", f"{node.name!r} is not a plain name", hint="put it into quotes")


def check_bare_column(column: exp.Column) -> None:
    name = column.this
    if not isinstance(name, exp.Identifier) or name.quoted:
        return
    word = name.name.lower()
    if word in _CALLS and not column.table:
        raise Refused("sql.function", f"{word} is not allowed", hint=f'a column of that name is "{word}"')
    if word in _RESERVED and not column.table:
        raise Refused("sql.name", f"{word} is a reserved word", hint="put the name into quotes")


def check_bare_relation(name: exp.Identifier) -> None:
    if not name.quoted and name.name.lower() in _RESERVED:
        raise Refused("sql.name", f"{name.name} is a reserved word", hint="put the name into quotes")


def is_system(schema: str, name: str, dialect: Dialect) -> bool:
    """Catalogues and the like. PostgreSQL looks into pg_catalog first, whatever the default schema is."""
    schema, name = fold(schema), fold(name)
    if schema in _SYSTEM_SCHEMAS[dialect]:
        return True
    if dialect == "postgres":
        return schema.startswith("pg_") or name.startswith("pg_")
    if dialect == "sqlite":
        return name.startswith(("sqlite_", "pragma_", "fts3tokenize", "vtab_")) or name in _SQLITE_SYSTEM
    return False


def allowing(name: str, globs: Iterable[str]) -> int | None:
    """Which glob allows exactly this name."""
    return next((index for index, glob in enumerate(globs) if fnmatchcase(name, glob)), None)


def denying(name: str, globs: Iterable[str]) -> int | None:
    """Which glob denies this name, or one that an engine could take for it."""
    coarse = fold(name)
    for index, glob in enumerate(globs):
        if fnmatchcase(name, glob) or fnmatchcase(coarse, fold(glob)):
            return index
    return None


def covers(glob: str, relation: str) -> bool:
    """Whether every column of `relation` matches; may say no where yes is true."""
    return glob.endswith("*") and fnmatchcase(relation + ".", glob)


def could_touch(glob: str, relation: str) -> bool:
    """Whether a column (without a dot in its name) might match; may say yes where no is true."""
    glob, relation = fold(glob), fold(relation)
    last = glob.rfind(".")
    if last >= 0 and fnmatchcase(relation, glob[:last]):
        return True
    # After the last dot a wildcard can stand for the dot before the column.
    wild = (index for index in range(last + 1, len(glob)) if glob[index] in "*?[")
    return any(fnmatchcase(relation, glob[: index + (glob[index] == "*")]) for index in wild)
