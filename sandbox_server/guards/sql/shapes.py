"""Which nodes a syntax tree may consist of, and which parts each may have. Anything else is a refusal: what a new
version of the parser adds is refused until it stands here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from sqlglot import exp
from sqlglot.expressions import DType

from sandbox_server.guards.sql.models import Dialect
from sandbox_server.guards.sql.names import check_identifier
from sandbox_server.guards.sql.refusal import Refused


def _parts(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BINARY = _parts("this expression")
_QUERY = _parts("with_ order limit offset")

_STRUCTURE: dict[str, frozenset[str]] = {
    "Select": _QUERY | _parts("expressions from_ joins laterals where group having windows distinct"),
    "Union": _QUERY | _parts("this expression distinct"),
    "Intersect": _QUERY | _parts("this expression distinct"),
    "Except": _QUERY | _parts("this expression distinct"),
    "Subquery": _QUERY | _parts("this alias joins"),
    "Values": _parts("expressions alias order limit offset"),
    "With": _parts("expressions recursive"),
    "CTE": _parts("this alias materialized"),
    "From": _parts("this"),
    "Join": _parts("this on using side kind method"),
    "Lateral": _parts("this alias ordinality"),
    "Table": _parts("this db catalog alias joins ordinality"),
    "TableAlias": _parts("this columns"),
    "ColumnDef": _parts("this kind"),
    "Where": _parts("this"),
    "Having": _parts("this"),
    "Group": _parts("expressions grouping_sets cube rollup"),
    "Rollup": _parts("expressions"),
    "Cube": _parts("expressions"),
    "GroupingSets": _parts("expressions"),
    "Order": _parts("this expressions"),
    "Ordered": _parts("this desc nulls_first"),
    "Limit": _parts("expression offset"),
    "Offset": _parts("expression"),
    "Fetch": _parts("direction count limit_options"),
    "LimitOptions": _parts("percent rows with_ties"),
    "Distinct": _parts("expressions on"),
    "Window": _parts("this partition_by order spec alias over"),
    "WindowSpec": _parts("kind start start_side end end_side exclude"),
    "Filter": _BINARY,
    "WithinGroup": _BINARY,
    "IgnoreNulls": _parts("this"),
    "RespectNulls": _parts("this"),
    "Alias": _parts("this alias"),
    "Column": _parts("this table db"),
    "Identifier": _parts("this quoted"),
    "Star": frozenset(),
    "Paren": _parts("this"),
    "Tuple": _parts("expressions"),
    "Dot": _BINARY,
    "Bracket": _parts("this expressions offset"),
    "Slice": _BINARY,
    "Literal": _parts("this is_string"),
    "RawString": _parts("this"),
    "HexString": _parts("this is_integer"),
    "BitString": _parts("this"),
    "Boolean": _parts("this"),
    "Null": frozenset(),
    "Placeholder": _parts("this"),
    "Var": _parts("this"),
    "Interval": _parts("this unit"),
    "IntervalSpan": _BINARY,
    "DataType": _parts("this expressions nested kind"),
    "ObjectIdentifier": _parts("this"),  # refused with its name
    "DataTypeParam": _parts("this"),
    "In": _parts("this expressions query"),
    "Between": _parts("this low high symmetric"),
    "Any": _parts("this"),
    "All": _parts("this"),
    "Exists": _parts("this"),
    "Case": _parts("this ifs default"),
    "If": _parts("this true false"),
    "Cast": _parts("this to"),
    "AtTimeZone": _parts("this zone"),
    "Collate": _BINARY,
} | dict.fromkeys(["And", "Or", "Xor", "EQ", "NEQ", "GT", "GTE", "LT", "LTE", "NullSafeEQ", "NullSafeNEQ", "Add", "Sub", "Mul", "IntDiv", "Mod", "SimilarTo", "Escape", "RegexpLike", "RegexpILike", "Glob", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseLeftShift", "BitwiseRightShift", "ArrayContainsAll", "ArrayContainedBy", "ArrayOverlaps", "Overlaps", "Adjacent", "JSONBContains", "JSONBContainsTopKey", "JSONBContainsAnyTopKeys", "JSONBContainsAllTopKeys", "JSONBDeleteAtPath", "JSONBPathExists", "JSONBExtract", "JSONBExtractScalar", "ExtendsLeft", "ExtendsRight", "Distance"], _BINARY) | {name: _BINARY | _parts("negate") for name in ("Like", "ILike", "Is")} | {
    "Not": _parts("this"),
    "Neg": _parts("this"),
    "BitwiseNot": _parts("this"),
    "Div": _BINARY | _parts("typed safe"),
    "Pow": _BINARY,
    "DPipe": _BINARY | _parts("safe"),
    "JSONExtract": _BINARY,
    "JSONExtractScalar": _BINARY,
    "MatchAgainst": _parts("this expressions modifier"),
}  # fmt: skip

_WRITES: dict[str, frozenset[str]] = {
    "Insert": _parts("with_ this expression conflict returning default"),
    "Update": _parts("with_ this expressions from_ where returning order limit"),
    "Delete": _parts("with_ this using where returning order limit"),
    "Schema": _parts("this expressions"),
    "OnConflict": _parts("action conflict_keys"),
    "Returning": _parts("expressions"),
}

# Calls with a grammar of their own, and functions without parentheses. All others are `Anonymous` (see `parsing`).
# What they are called is judged in the text.
_CALLS: dict[str, frozenset[str]] = {
    "Anonymous": _parts("this expressions"),
    "Array": _parts("expressions bracket_notation value_constructor"),
    "Unnest": _parts("expressions alias offset"),
    "Extract": _BINARY,
    "Trim": _parts("this expression position"),
    "Substring": _parts("this start length"),
    "StrPosition": _parts("this substr"),
    "Overlay": _parts("this expression from_ for_"),
    "GroupConcat": _parts("this separator"),
    "Concat": _parts("expressions safe coalesce"),
    "CurrentDate": frozenset(),
    "CurrentTime": _parts("this"),
    "CurrentTimestamp": _parts("this"),
    "Localtime": _parts("this"),
    "Localtimestamp": _parts("this"),
    "Kwarg": _BINARY,
}

_TYPES = frozenset(
    name
    for name in [
        "BOOLEAN",
        "TINYINT",
        "SMALLINT",
        "MEDIUMINT",
        "INT",
        "BIGINT",
        "UTINYINT",
        "USMALLINT",
        "UMEDIUMINT",
        "UINT",
        "UBIGINT",
        "DECIMAL",
        "UDECIMAL",
        "BIGDECIMAL",
        "FLOAT",
        "DOUBLE",
        "UDOUBLE",
        "REAL",
        "CHAR",
        "NCHAR",
        "VARCHAR",
        "NVARCHAR",
        "TEXT",
        "TINYTEXT",
        "MEDIUMTEXT",
        "LONGTEXT",
        "BLOB",
        "TINYBLOB",
        "MEDIUMBLOB",
        "LONGBLOB",
        "BINARY",
        "VARBINARY",
        "BIT",
        "DATE",
        "DATE32",
        "TIME",
        "TIMETZ",
        "TIMESTAMP",
        "TIMESTAMPTZ",
        "TIMESTAMPLTZ",
        "TIMESTAMPNTZ",
        "DATETIME",
        "DATETIME2",
        "YEAR",
        "INTERVAL",
        "JSON",
        "JSONB",
        "UUID",
        "ARRAY",
        "INET",
        "BPCHAR",
        "VARBIT",
        "INT4RANGE",
        "INT8RANGE",
        "NUMRANGE",
        "TSRANGE",
        "TSTZRANGE",
        "DATERANGE",
    ]
)

# Every other text in a tree is written as it is, so it must be words.
_WORDS = re.compile(r"[A-Za-z_][A-Za-z_ ]{0,60}\Z")
_NUMBER = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\Z")
_BITS = re.compile(r"[0-9a-fA-F]*\Z")
_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z")
_FREE_TEXT = frozenset({"Identifier", "Literal", "RawString"})
_SIDES = frozenset({"", "LEFT", "RIGHT", "FULL"})
_KINDS = frozenset({"", "INNER", "OUTER", "CROSS"})


def check_shape(
    nodes: Iterable[exp.Expr], dialect: Dialect, own_functions: frozenset[str], *, writes: bool
) -> None:
    """Raises for the first node that is unknown, or that has a part which is."""
    for node in nodes:
        name = type(node).__name__
        parts = _STRUCTURE.get(name, _CALLS.get(name))
        if parts is None and writes:
            parts = _WRITES.get(name)
        if parts is None:
            raise forbidden(name)
        if extra := [part for part, value in node.args.items() if value and part not in parts]:
            raise forbidden(f"{name} with {extra[0].rstrip('_')}")
        _check_texts(node, name)
        _check_node(node, own_functions)


def forbidden(what: str) -> Refused:
    hint = _HINTS.get(what.split()[0], "")
    return Refused("sql.forbidden_node", f"{what} is not allowed", hint=hint)


_HINTS = {
    "Parameter": "parameters are written :name",
    "SessionParameter": "parameters are written :name",
    "Command": "one SELECT, INSERT, UPDATE or DELETE can be asked for",
    "Lock": "locks are not allowed: leave out FOR UPDATE",
    "Into": "a query can't make a table",
    "ByteString": "write plain '...' strings; chr(10) makes a newline",
    "TableSample": "ORDER BY random() LIMIT n takes a sample",
}


def _check_texts(node: exp.Expr, name: str) -> None:
    if name in _FREE_TEXT:
        return
    for value in node.args.values():
        for text in value if isinstance(value, list) else (value,):
            if isinstance(text, str) and not _WORDS.match(text) and not _special(name, text):
                raise forbidden(f"{name} of {text[:20]!r}")


def _special(name: str, text: str) -> bool:
    match name:
        case "Collate" | "Var":
            return text == "" or _PARAMETER.match(text) is not None
        case "HexString" | "BitString":
            return _BITS.match(text) is not None
        case "Placeholder":
            return _PARAMETER.match(text) is not None
        case "Anonymous":
            return _PARAMETER.match(text) is not None
    return False


def _check_node(node: exp.Expr, own_functions: frozenset[str]) -> None:
    match node:
        case exp.Identifier():
            check_identifier(node)
        case exp.Literal() if not node.is_string and not _NUMBER.match(node.this):
            raise forbidden(f"the number {node.this[:20]!r}")
        case exp.Placeholder() if not isinstance(node.this, str) or not _PARAMETER.match(node.this):
            raise Refused("sql.parameter", "parameters must have names", hint="write :name")
        case exp.DataType():
            _check_type(node, own_functions)
        case exp.Join():
            _check_join(node)
        case exp.Anonymous() if isinstance(node.this, exp.Identifier):
            raise Refused("sql.function", "names of functions are written without quotes")


def _check_type(node: exp.DataType, own_functions: frozenset[str]) -> None:
    kind = node.this
    if isinstance(kind, exp.IntervalSpan):
        return
    if isinstance(node, exp.ObjectIdentifier) or not isinstance(kind, DType) or kind.name not in _TYPES:
        named = node.args.get("kind")
        text = named.name if isinstance(named, exp.Identifier) else str(named or "")
        if kind == DType.USERDEFINED and text and text.lower() in own_functions:
            return
        shown = text or (kind.name if isinstance(kind, DType) else str(kind))
        raise Refused(
            "sql.type", f"casts to {shown.lower()} are not allowed", hint="cast to a plain type such as text"
        )


def _check_join(node: exp.Join) -> None:
    method, side, kind = node.method.upper(), node.side.upper(), node.kind.upper()
    if method not in ("", "NATURAL") or side not in _SIDES or kind not in _KINDS:
        raise forbidden(f"{method} {side} {kind} JOIN".strip().replace("  ", " "))
