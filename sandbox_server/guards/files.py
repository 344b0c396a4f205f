"""Paths inside a sandbox that the tool `filesystem` may touch, by globs.

Matching takes time in proportion to pattern times path, whatever both hold: there are no regexes. A rule
set is indexed by the literal directories that its globs begin with, so that many rules cost like few.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Self

from sandbox_server.guards.wildcards import segment_matches

MAX_GLOB = 512


@dataclass(frozen=True, slots=True)
class Glob:
    """`**` is any number of directories, also none (so `/workspace/**` holds for `/workspace` itself);
    `*` and `?` stay within one name. Absolute, or begins with `**/`."""

    parts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError that says what is wrong."""
        if len(text) > MAX_GLOB or not text.isprintable():
            raise ValueError(f"a path is printable text of at most {MAX_GLOB} characters")
        if not text.startswith(("/", "**/")):
            raise ValueError("must begin with / or **/")
        parts = tuple(text.removeprefix("/").split("/"))
        if any(part in ("", ".", "..") for part in parts):
            raise ValueError("must not have empty parts, '.' or '..'")
        if any("**" in part and part != "**" for part in parts):
            raise ValueError("** stands alone between slashes; within a name write *")
        return cls(parts)

    @property
    def literal(self) -> tuple[str, ...]:
        """The directories that everything it matches begins with."""
        for index, part in enumerate(self.parts):
            if "*" in part or "?" in part:
                return self.parts[:index]
        return self.parts

    def __str__(self) -> str:
        return "/".join(self.parts) if self.parts[0] == "**" else "/" + "/".join(self.parts)

    def matches(self, names: tuple[str, ...]) -> bool:
        """`names` are a canonical path's, without the slashes."""
        return _reachable(self.parts, names)[-1]

    def below(self, names: tuple[str, ...]) -> bool:
        """Whether it could match something inside the directory `names`."""
        reached = _reachable(self.parts, names)
        return any(reached[index] for index in range(len(self.parts)))


def _reachable(parts: tuple[str, ...], names: tuple[str, ...]) -> list[bool]:
    """Which prefixes of the pattern match all of `names`."""
    reached = [False] * (len(parts) + 1)
    reached[0] = True
    _skip_any(parts, reached)
    for name in names:
        following = [False] * (len(parts) + 1)
        for index, part in enumerate(parts):
            if reached[index]:
                if part == "**":
                    following[index] = True
                elif segment_matches(part, name):
                    following[index + 1] = True
        reached = following
        _skip_any(parts, reached)
    return reached


def _skip_any(parts: tuple[str, ...], reached: list[bool]) -> None:
    for index, part in enumerate(parts):
        if part == "**" and reached[index]:
            reached[index + 1] = True


@dataclass(frozen=True, slots=True)
class FileRule:
    """`source` is its path in the policy."""

    glob: Glob
    ops: frozenset[str]
    source: str
    ask: bool = False
    observe: bool = False


@dataclass(frozen=True, slots=True)
class FileVerdict:
    """`rule` is what decided, "" if nothing allows it. `observed` is the rule that would have denied."""

    allowed: bool
    rule: str = ""
    ask: bool = False
    observed: str = ""


class FileIndex:
    """Rules by the literal directories that they begin with."""

    def __init__(self, rules: Iterable[FileRule]) -> None:
        self._by_prefix: dict[tuple[str, ...], list[FileRule]] = {}
        for rule in rules:
            self._by_prefix.setdefault(rule.glob.literal, []).append(rule)

    def __iter__(self) -> Iterator[FileRule]:
        return (rule for rules in self._by_prefix.values() for rule in rules)

    def first(self, most: int) -> list[FileRule]:
        return list(islice(self, most))

    def around(self, names: tuple[str, ...]) -> Iterator[FileRule]:
        """Those that could match `names`."""
        for length in range(len(names) + 1):
            yield from self._by_prefix.get(names[:length], ())

    def beneath(self, names: tuple[str, ...]) -> Iterator[FileRule]:
        """Those that begin deeper than `names`."""
        length = len(names)
        for prefix, rules in self._by_prefix.items():
            if len(prefix) > length and prefix[:length] == names:
                yield from rules


@dataclass(frozen=True, slots=True)
class FileRules:
    """Deny wins; what no rule allows is denied. `max_file` in bytes, None for no limit of the policy's."""

    allow: FileIndex
    deny: FileIndex
    root: str = "/workspace"
    max_file: int | None = None
    sources: dict[str, str] = field(default_factory=dict, compare=False)
    """Where `root` and `max_file` come from."""

    def judge(self, op: str, path: str, *, tree: bool = False) -> FileVerdict:
        """Of a canonical absolute path. `tree`: the operation takes in all that is below it, too, so a rule
        that denies anything there denies the whole."""
        names = tuple(path.split("/")[1:]) if path != "/" else ()
        observed = ""
        for rule in self._denying(op, names, tree):
            if not rule.observe:
                return FileVerdict(False, rule.source)
            observed = observed or rule.source
        found = [rule for rule in self.allow.around(names) if op in rule.ops and rule.glob.matches(names)]
        if not found:
            return FileVerdict(False)
        asking = next((rule for rule in found if rule.ask), None)
        chosen = asking or next((rule for rule in found if not rule.observe), found[0])
        if chosen.observe:
            observed = observed or chosen.source
        return FileVerdict(True, chosen.source, asking is not None, observed)

    def check(self, op: str, path: str, *, tree: bool = False) -> str | None:
        """None if it is allowed, else the rule that denies it, or "default"."""
        verdict = self.judge(op, path, tree=tree)
        return None if verdict.allowed else verdict.rule or "default"

    def _denying(self, op: str, names: tuple[str, ...], tree: bool) -> Iterator[FileRule]:
        for rule in self.deny.around(names):
            if op in rule.ops and (rule.glob.matches(names) or (tree and rule.glob.below(names))):
                yield rule
        if tree:
            yield from (rule for rule in self.deny.beneath(names) if op in rule.ops)


def canonical(path: str, root: str = "/workspace") -> str:
    """The absolute path without dots and doubled slashes; relative ones begin at `root`. Raises ValueError.

    Never resolves "..": what it means depends on links that only the sandbox knows.
    """
    if "\0" in path or len(path) > 4096 or not path.isprintable():
        raise ValueError("a path is printable text of at most 4096 characters")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError("'..' is not allowed: name the path from the workspace")
    start = "" if path.startswith("/") else root
    return "/".join([start, *parts]) or "/"
