"""A small strict lexer, used before the parser (bounds, and what two lexers could read differently) and after
it (what the text that will run really says).

It refuses rather than guesses: whatever the engine and the parser might read differently is an error here.
Linear in the length of the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from sandbox_server.guards.sql.models import Dialect
from sandbox_server.guards.sql.refusal import Refused

Kind = Literal["word", "quoted", "string", "number", "param", "op"]

MAX_LEXEMES = 10_000


@dataclass(frozen=True, slots=True)
class Lexeme:
    kind: Kind
    text: str
    start: int
    end: int


_SKIP = r"(?P<space>[ \t\r\n]+)|(?P<comment>--[^\n]*)|(?P<block>/\*)"
_WORD = r"(?P<word>[A-Za-z_][A-Za-z0-9_]*)"
_NUMBER = r"(?P<number>0[xX][0-9a-fA-F]+|(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
_PARAM = r"(?P<cast>::)|:(?P<param>[A-Za-z_][A-Za-z0-9_]*)"
_OP = r"(?P<op>[-+*/<>=~!@%^&|?#(),.;\[\]:])"
_OP_SQLITE = r"(?P<op>[-+*/<>=~!@%^&|?#(),.;:])"  # brackets are quotes there
_PLAIN = r"(?P<string>'(?:[^']|'')*')"
_ESCAPED = r"(?P<string>'(?:[^'\\]|''|\\.)*'|\"(?:[^\"\\]|\"\"|\\.)*\")"
_DOUBLE = r"\"(?:[^\"]|\"\")*\""
_TICKED = r"`(?:[^`]|``)*`"

_PATTERNS: dict[Dialect, re.Pattern[str]] = {
    "postgres": re.compile(
        rf"{_SKIP}|{_PLAIN}|(?P<quoted>{_DOUBLE})|(?P<dollar>\$(?:[A-Za-z_][A-Za-z0-9_]*)?\$)|"
        rf"{_NUMBER}|{_WORD}|{_PARAM}|{_OP}",
        re.DOTALL,
    ),
    "mysql": re.compile(
        rf"{_SKIP}|(?P<hash>#[^\n]*)|{_ESCAPED}|(?P<quoted>{_TICKED})|{_NUMBER}|{_WORD}|{_PARAM}|{_OP}",
        re.DOTALL,
    ),
    "sqlite": re.compile(
        rf"{_SKIP}|{_PLAIN}|(?P<quoted>{_DOUBLE}|{_TICKED}|\[[^\]]*\])|{_NUMBER}|{_WORD}|{_PARAM}|{_OP_SQLITE}",
        re.DOTALL,
    ),
}

# Before a quote these change what the quote means: escapes, charsets, national and Unicode strings.
_INTRODUCER = re.compile(r"(?i)(?:e|n|u&|_[a-z0-9_]*)\Z")


def lex(sql: str, dialect: Dialect) -> list[Lexeme]:
    """The lexemes without comments; `Refused` for what is ambiguous, unfinished, or too much."""
    match = _PATTERNS[dialect].match
    found: list[Lexeme] = []
    at, end = 0, len(sql)
    while at < end:
        token = match(sql, at)
        if token is None:
            raise _unreadable(sql, at)
        kind, text, after = token.lastgroup, token.group(), token.end()
        if kind == "block":
            after = _block(sql, at)
        elif kind == "comment":
            _line_comment(text, dialect)
        elif kind == "dollar":
            after = _dollar(sql, at, text)
            found.append(Lexeme("string", sql[at:after], at, after))
        elif kind not in ("space", "hash"):
            _unambiguous(sql, at, kind, dialect)
            found.append(Lexeme(_kind(kind), text if kind != "param" else token["param"], at, after))
            if len(found) > MAX_LEXEMES:
                raise Refused("sql.too_long", f"the statement has more than {MAX_LEXEMES} tokens")
        at = after
    return found


def depth(lexemes: list[Lexeme]) -> int:
    """How deep parentheses, brackets and CASE nest."""
    deepest = now = 0
    for lexeme in lexemes:
        text = lexeme.text
        if lexeme.kind == "op":
            now += (text in "([") - (text in ")]")
        elif lexeme.kind == "word" and len(text) <= 4:
            word = text.lower()
            now += (word == "case") - (word == "end")
        deepest = max(deepest, now)
    return deepest


def _kind(group: str | None) -> Kind:
    match group:
        case "word" | "quoted" | "string" | "number" | "param":
            return group
    return "op"


def _unambiguous(sql: str, at: int, kind: str | None, dialect: Dialect) -> None:
    before = sql[max(0, at - 40) : at]
    if kind in ("string", "quoted") and (found := _INTRODUCER.search(before)):
        start = at - len(found.group())
        if start == 0 or not (sql[start - 1].isalnum() or sql[start - 1] in "_$"):
            raise Refused(
                "sql.string",
                f"a string or name may not begin with {found.group()!r}",
                hint="write plain '...' strings; chr(10) or char(10) makes a newline",
            )
    elif kind == "word" and before[-1:].isdigit():
        raise _unreadable(sql, at)  # `1union` is two tokens for one lexer and one for another
    elif kind == "op" and sql[at] == "@" and dialect != "postgres":
        raise Refused(
            "sql.variable", "variables (@name) are not allowed", hint="pass values as params: :name"
        )
    elif kind == "op" and sql[at] == "#" and dialect == "sqlite":
        raise _unreadable(sql, at)


def _line_comment(text: str, dialect: Dialect) -> None:
    if dialect == "mysql" and len(text) > 2 and text[2] not in " \t\r":
        raise Refused(
            "sql.comment",
            "'--' without a space after it is a comment for some and two minus signs for others",
            hint="write '- -' or put a space after '--'",
        )


def _block(sql: str, at: int) -> int:
    """The end of a block comment. Nested ones end at different places in different engines."""
    close = sql.find("*/", at + 2)
    if close < 0:
        raise Refused("sql.parse", "a comment is not closed")
    inside = sql[at + 2 : close]
    if inside[:1] in ("!", "+") or inside[:2] == "M!":
        raise Refused("sql.comment", f"comments that are executed are not allowed: /*{inside[:2]}")
    if "/*" in inside:
        raise Refused("sql.comment", "comments inside comments are not allowed")
    return close + 2


def _dollar(sql: str, at: int, tag: str) -> int:
    close = sql.find(tag, at + len(tag))
    if close < 0 or (at and (sql[at - 1].isalnum() or sql[at - 1] in "_$")):
        raise _unreadable(sql, at)
    return close + len(tag)


def _unreadable(sql: str, at: int) -> Refused:
    char = sql[at]
    if char == "$":
        return Refused("sql.parameter", "$ is not allowed here", hint="parameters are written :name")
    if char.isalpha():
        return Refused(
            "sql.character", f"{sql[at : at + 12]!r} is not readable", hint="quote names that are not ASCII"
        )
    if char in "'\"`[":
        return Refused("sql.parse", f"a string or name that begins with {char} is not closed")
    shown = char if char.isprintable() else f"U+{ord(char):04X}"
    return Refused("sql.character", f"the character {shown!r} is not allowed outside strings")
