"""Which nodes a syntax tree may consist of, and which parts each may have.

Anything else is a refusal: what a new version of the parser adds is refused until it stands here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from sqlglot import exp
from sqlglot.expressions import DType

from sandbox_server.guards.sql.models import Dialect
from sandbox_server.guards.sql.names import check_identifier
from sandbox_server.guards.sql.refusal import Refused
from sandbox_server.guards.sql.words import words

_BINARY = words("this expression")
_QUERY = words("with_ order limit offset")

_OPERATORS = words(
    """
    And Or Xor EQ NEQ GT GTE LT LTE NullSafeEQ NullSafeNEQ Add Sub Mul IntDiv Mod SimilarTo Escape
    RegexpLike RegexpILike Glob BitwiseAnd BitwiseOr BitwiseXor BitwiseLeftShift BitwiseRightShift
    ArrayContainsAll ArrayContainedBy ArrayOverlaps Overlaps Adjacent JSONBContains JSONBContainsTopKey
    JSONBContainsAnyTopKeys JSONBContainsAllTopKeys JSONBDeleteAtPath JSONBPathExists JSONBExtract
    JSONBExtractScalar ExtendsLeft ExtendsRight Distance
    """
)

_STRUCTURE: dict[str, frozenset[str]] = {
    "Select": _QUERY | words("expressions from_ joins laterals where group having windows distinct"),
    "Union": _QUERY | words("this expression distinct"),
    "Intersect": _QUERY | words("this expression distinct"),
    "Except": _QUERY | words("this expression distinct"),
    "Subquery": _QUERY | words("this alias joins"),
    "Values": words("expressions alias order limit offset"),
    "With": words("expressions recursive"),
    "CTE": words("this alias materialized"),
    "From": words("this"),
    "Join": words("this on using side kind method"),
    "Lateral": words("this alias ordinality"),
    "Table": words("this db catalog alias joins ordinality"),
    "TableAlias": words("this columns"),
    "ColumnDef": words("this kind"),
    "Where": words("this"),
    "Having": words("this"),
    "Group": words("expressions grouping_sets cube rollup"),
    "Rollup": words("expressions"),
    "Cube": words("expressions"),
    "GroupingSets": words("expressions"),
    "Order": words("this expressions"),
    "Ordered": words("this desc nulls_first"),
    "Limit": words("expression offset"),
    "Offset": words("expression"),
    "Fetch": words("direction count limit_options"),
    "LimitOptions": words("percent rows with_ties"),
    "Distinct": words("expressions on"),
    "Window": words("this partition_by order spec alias over"),
    "WindowSpec": words("kind start start_side end end_side exclude"),
    "Filter": _BINARY,
    "WithinGroup": _BINARY,
    "IgnoreNulls": words("this"),
    "RespectNulls": words("this"),
    "Alias": words("this alias"),
    "Column": words("this table db"),
    "Identifier": words("this quoted"),
    "Star": frozenset(),
    "Paren": words("this"),
    "Tuple": words("expressions"),
    "Dot": _BINARY,
    "Bracket": words("this expressions offset"),
    "Slice": _BINARY,
    "Literal": words("this is_string"),
    "RawString": words("this"),
    "HexString": words("this is_integer"),
    "BitString": words("this"),
    "Boolean": words("this"),
    "Null": frozenset(),
    "Placeholder": words("this"),
    "Var": words("this"),
    "Interval": words("this unit"),
    "IntervalSpan": _BINARY,
    "DataType": words("this expressions nested kind"),
    "ObjectIdentifier": words("this"),  # refused with its name
    "DataTypeParam": words("this"),
    "In": words("this expressions query"),
    "Between": words("this low high symmetric"),
    "Any": words("this"),
    "All": words("this"),
    "Exists": words("this"),
    "Case": words("this ifs default"),
    "If": words("this true false"),
    "Cast": words("this to"),
    "AtTimeZone": words("this zone"),
    "Collate": _BINARY,
    "Like": _BINARY | words("negate"),
    "ILike": _BINARY | words("negate"),
    "Is": _BINARY | words("negate"),
    "Not": words("this"),
    "Neg": words("this"),
    "BitwiseNot": words("this"),
    "Div": _BINARY | words("typed safe"),
    "Pow": _BINARY,
    "DPipe": _BINARY | words("safe"),
    "JSONExtract": _BINARY,
    "JSONExtractScalar": _BINARY,
    "MatchAgainst": words("this expressions modifier"),
} | dict.fromkeys(_OPERATORS, _BINARY)  # fmt: skip

_WRITES: dict[str, frozenset[str]] = {
    "Insert": words("with_ this expression conflict returning default"),
    "Update": words("with_ this expressions from_ where returning order limit"),
    "Delete": words("with_ this using where returning order limit"),
    "Schema": words("this expressions"),
    "OnConflict": words("action conflict_keys"),
    "Returning": words("expressions"),
}

# Calls with a grammar of their own, and functions without parentheses. All others are `Anonymous` (see
# `parsing`); what they are called is judged in the text.
_CALLS: dict[str, frozenset[str]] = {
    "Anonymous": words("this expressions"),
    "Array": words("expressions bracket_notation value_constructor"),
    "Unnest": words("expressions alias offset"),
    "Extract": _BINARY,
    "Trim": words("this expression position"),
    "Substring": words("this start length"),
    "StrPosition": words("this substr"),
    "Overlay": words("this expression from_ for_"),
    "GroupConcat": words("this separator"),
    "Concat": words("expressions safe coalesce"),
    "CurrentDate": frozenset(),
    "CurrentTime": words("this"),
    "CurrentTimestamp": words("this"),
    "Localtime": words("this"),
    "Localtimestamp": words("this"),
    "Kwarg": _BINARY,
}

_TYPES = words(
    """
    BOOLEAN TINYINT SMALLINT MEDIUMINT INT BIGINT UTINYINT USMALLINT UMEDIUMINT UINT UBIGINT DECIMAL
    UDECIMAL BIGDECIMAL FLOAT DOUBLE UDOUBLE REAL CHAR NCHAR VARCHAR NVARCHAR TEXT TINYTEXT MEDIUMTEXT
    LONGTEXT BLOB TINYBLOB MEDIUMBLOB LONGBLOB BINARY VARBINARY BIT DATE DATE32 TIME TIMETZ TIMESTAMP
    TIMESTAMPTZ TIMESTAMPLTZ TIMESTAMPNTZ DATETIME DATETIME2 YEAR INTERVAL JSON JSONB UUID ARRAY INET
    BPCHAR VARBIT INT4RANGE INT8RANGE NUMRANGE TSRANGE TSTZRANGE DATERANGE
    """
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
