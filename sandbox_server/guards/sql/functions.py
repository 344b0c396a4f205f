"""Which functions a statement may call: by allowlist, and some never."""

from __future__ import annotations

import re
from difflib import get_close_matches

from sandbox_server.guards.sql.builtins import SAFE_BUILTIN, TABLE_FUNCTIONS
from sandbox_server.guards.sql.models import Dialect, SqlRules
from sandbox_server.guards.sql.refusal import Refused
from sandbox_server.guards.sql.words import words

PRESET = "safe_builtin"

# They run SQL given as a string, reach files, other servers, sessions, settings, sequences or locks, or wait:
# a policy that names one of them is mistaken, so no policy can allow them.
_NEVER = re.compile(
    r"""
    (?:
        pg_.* | lo_.* | dblink.* | .*_to_xml(?:_and_xmlschema|schema)? | ts_stat | ts_rewrite | ts_debug |
        ts_parse | crosstab\d* | connectby | xpath_table | set_config | current_setting | nextval |
        currval | setval | lastval | txid_.* | inet_(?:client|server)_.* | version | to_reg[a-z]+ |
        has_\w+_privilege | row_security_active | current_(?:user|role|database|schemas?|catalog|query) |
        session_user | system_user | postgres_fdw_.* | file_fdw_.* | xmlparse | binary_upgrade_.* |
        brin_.* | gin_clean_.* | amvalidate | load_file | load_extension | sleep | benchmark | get_lock |
        release_lock | release_all_locks | is_(?:free|used)_lock | master_.*_wait | wait_for_.* |
        extractvalue | updatexml | sys_(?:exec|eval|get|set)\w* | user | database | schema | connection_id |
        last_insert_id | row_count | found_rows | uuid_short | lib_mysqludf_.* | name_const |
        des_(?:en|de)crypt | kill | shutdown | readfile | writefile | edit | fsdir | lsmode | sqlite_.* |
        fts3_tokenizer | fts5 | zipfile.* | pragma_.* | sqlar_.* | zeroblob | randomblob | changes |
        total_changes | last_insert_rowid | eval | shell_\w+ | xp_.* | sp_.* | openrowset | openquery |
        opendatasource | read_(?:csv|text|blob|parquet|json|ndjson)\w* | getenv | exec | execute_immediate |
        query_to_.* | database_to_.* | schema_to_.* | table_to_.* | cursor_to_.*
    )
    """,
    re.VERBOSE,
)  # fmt: skip


def never(name: str) -> bool:
    """Whether no policy may allow this function; `schema.name` is judged by the name."""
    bare = name.rpartition(".")[2].lower()
    return _NEVER.fullmatch(bare) is not None


def safe_builtin(dialect: Dialect) -> frozenset[str]:
    """The names of the preset. A policy may also put `safe_builtin` itself among its functions."""
    return SAFE_BUILTIN[dialect]


# Functions that make something of any row, beside those of the preset.
_OF_ROWS = words(
    """
    hash_record hash_record_extended record_out record_send hstore populate_record anytextcat textanycat
    """
)


class Functions:
    """What one statement may call."""

    def __init__(self, rules: SqlRules) -> None:
        self.dialect = rules.dialect
        own = frozenset(name.lower() for name in rules.functions)
        self.preset = PRESET in own
        self.own = own - {PRESET}

    def allows(self, name: str) -> bool:
        return not never(name) and (name in self.own or (self.preset and name in SAFE_BUILTIN[self.dialect]))

    def check(self, name: str) -> None:
        """`name` as it will be written, lower case, with its schema if it has one."""
        if not self.allows(name):
            raise self._refused(name)

    def safe_as_column(self, name: str, *, restricted: bool) -> bool:
        """Whether `t.name` may be let through though nobody knows if t has such a column: PostgreSQL would
        call a function of that name with the row."""
        if never(name):
            return False
        return not restricted or (name not in SAFE_BUILTIN["postgres"] and name not in _OF_ROWS)

    def check_table(self, name: str) -> None:
        """As `check`, for a function that stands in FROM: of the preset only those made for it."""
        self.check(name)
        if name in TABLE_FUNCTIONS[self.dialect] or (
            name in self.own and name not in SAFE_BUILTIN[self.dialect]
        ):
            return
        known = ", ".join(sorted(TABLE_FUNCTIONS[self.dialect]))
        raise Refused(
            "sql.function",
            f"function {name} is not allowed in FROM",
            hint=f"allowed there are {known}" if known else "",
            rule="functions",
        )

    def _refused(self, name: str) -> Refused:
        allowed = self.own | (SAFE_BUILTIN[self.dialect] if self.preset else frozenset())
        allowed = frozenset(each for each in allowed if not never(each))
        near = get_close_matches(name, allowed, 4, 0.6)
        if near:
            hint = f"allowed are {', '.join(near)}, ..."
        elif "." in name and name.rpartition(".")[2] in allowed:
            hint = f"write {name.rpartition('.')[2]} without a schema"
        elif not allowed:
            hint = "this database allows operators only, no functions"
        else:
            hint = "allowed are the common aggregates, window, text, number, date and JSON functions"
        return Refused(
            "sql.function",
            f"function {name} is not allowed",
            hint=hint,
            rule="functions.never" if never(name) else "functions",
        )
