"""Strict YAML: the part of the language in which a text has one meaning, with positions kept.

Refused, each because it has hidden a mistake in somebody's policy: duplicate keys (PyYAML
keeps the last one silently), anchors and aliases, tags, `yes/no/on/off` (booleans to YAML 1.1,
words to everybody else), octal and sexagesimal numbers, more than one document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import yaml

Path = tuple[str | int, ...]

MAX_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 32

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's parser is ten times as fast: a second and not ten for a policy of 1 MiB."""
_AMBIGUOUS: Final = re.compile(r"(?i)yes|no|on|off|y|n|true|false|null|~")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_INT: Final = re.compile(r"-?(0|[1-9][0-9]{0,14})")
_FLOAT: Final = re.compile(r"-?(0|[1-9][0-9]{0,14})\.[0-9]{1,15}")
_WORDS: Final[dict[str, object]] = {"true": True, "false": False, "null": None, "~": None, "": None}


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file. Numbers start at 1, as editors show them; `file` is empty where there is but one."""

    line: int
    column: int
    file: str = ""


class Malformed(Exception):
    """The text is not strict YAML. `mark` is where, `path` names the place if it has one."""

    def __init__(self, what: str, mark: Mark, path: Path = ()) -> None:
        super().__init__(what)
        self.what = what
        self.mark = mark
        self.path = path


@dataclass(frozen=True, slots=True)
class Document:
    """`data` is made of dict, tuple, str, int, float, bool and None."""

    data: object
    keys: dict[Path, Mark] = field(default_factory=dict)
    values: dict[Path, Mark] = field(default_factory=dict)

    def mark(self, path: Path, *, key: bool = False) -> Mark:
        """Where `path` stands, or the nearest thing around it that the file does hold."""
        while path:
            found = (self.keys if key else self.values).get(path) or self.keys.get(path)
            if found:
                return found
            path, key = path[:-1], True
        whole = self.values.get(())
        return Mark(1, 1, whole.file if whole else "")


def parse(raw: bytes, file: str = "") -> Document:
    """Raises Malformed, and nothing else, whatever the bytes are. `file` goes into every mark."""
    try:
        return _parse(raw, file)
    except Malformed as error:
        raise Malformed(error.what, replace(error.mark, file=file), error.path) from None


def _parse(raw: bytes, file: str) -> Document:
    if len(raw) > MAX_BYTES:
        raise Malformed(f"the file is larger than {MAX_BYTES // 1024} KiB", Mark(1, 1))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Malformed("the file is not UTF-8", _position(raw, error.start)) from None
    composer = _Composer(text, file)
    try:
        return composer.compose()
    except yaml.MarkedYAMLError as error:
        mark = _mark(error.problem_mark or error.context_mark)
        what = " ".join(filter(None, (error.context, error.problem))) or "not YAML"
        lines = text.split("\n")
        # libyaml puts the end of a text that does not end with a line break on the line after it.
        past = mark.line > len(lines)
        raise Malformed(what, Mark(len(lines), len(lines[-1]) + 1) if past else mark) from None
    except yaml.YAMLError as error:
        at = getattr(error, "position", 0)
        raise Malformed("a character that YAML does not allow", _position(raw, at)) from None
    except (ValueError, OverflowError):
        # PyYAML passes "\UFFFFFFFF" to chr() and a %YAML line's digits to int() unchecked.
        raise Malformed("a number or an escape that is out of range", composer.last) from None


class _Composer:
    def __init__(self, text: str, file: str) -> None:
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=_LOADER)
        self._file = file
        self._document = Document(None)
        self.last = Mark(1, 1)

    def compose(self) -> Document:
        self._next()
        if not isinstance(self._next(), yaml.DocumentStartEvent):
            raise Malformed("the file is empty", Mark(1, 1))
        data = self._node(self._next(), ())
        self._next()
        after = self._next()
        if not isinstance(after, yaml.StreamEndEvent):
            raise Malformed("a second document; a policy is exactly one", self.last)
        return Document(data, self._document.keys, self._document.values)

    def _mark(self, event: yaml.Event) -> Mark:
        return _mark(event.start_mark, self._file)

    def _next(self) -> yaml.Event:
        event = next(self._events)
        self.last = self._mark(event)
        return event

    def _node(self, event: yaml.Event, path: Path) -> object:
        mark = self._mark(event)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise Malformed("anchors and aliases are not allowed, repeat the value", mark, path)
        if getattr(event, "tag", None) is not None:
            raise Malformed("tags are not allowed", mark, path)
        if len(path) > MAX_DEPTH:
            raise Malformed(f"nested more than {MAX_DEPTH} deep", mark, path[:4])
        self._document.values[path] = mark
        match event:
            case yaml.MappingStartEvent():
                return self._mapping(path)
            case yaml.SequenceStartEvent():
                return self._sequence(path)
            case yaml.ScalarEvent():
                if _SURROGATE.search(event.value):
                    raise Malformed("half a character (a surrogate)", mark, path)
                return event.value if event.style else _scalar(event.value, mark, path)
        raise Malformed("not a value", mark, path)

    def _mapping(self, path: Path) -> dict[str, object]:
        found: dict[str, object] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            mark = self._mark(event)
            # Looked at before it is read: keys within keys would recurse without the path getting any deeper.
            key = None if isinstance(event, yaml.CollectionStartEvent) else self._node(event, path)
            if not isinstance(key, str):
                raise Malformed("a key must be text; quote it", mark, path)
            if key in found:
                first = self._document.keys[(*path, key)]
                raise Malformed(f"duplicate key, first on line {first.line}", mark, (*path, key))
            self._document.keys[(*path, key)] = mark
            found[key] = self._node(self._next(), (*path, key))
        return found

    def _sequence(self, path: Path) -> tuple[object, ...]:
        items: list[object] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items))))
        return tuple(items)


def _scalar(text: str, mark: Mark, path: Path) -> object:
    if text in _WORDS:
        return _WORDS[text]
    if _AMBIGUOUS.fullmatch(text):
        raise Malformed(f"'{text}' can mean a boolean or a word; write true, false, or quote it", mark, path)
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _mark(mark: _YamlMark | None, file: str = "") -> Mark:
    return Mark(mark.line + 1, mark.column + 1, file) if mark else Mark(1, 1, file)


class _YamlMark(Protocol):
    line: int
    column: int


def _position(raw: bytes, offset: int) -> Mark:
    before = raw[:offset]
    return Mark(before.count(b"\n") + 1, offset - (before.rfind(b"\n") + 1) + 1)
