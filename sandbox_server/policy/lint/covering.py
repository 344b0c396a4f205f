"""Whether one rule takes in another, wholly or not at all.

Sound and not complete: `covers` says yes, and `disjoint` says yes, only when it is sure, so that what
the lint reports as dead is dead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from sandbox_server.guards.hosts import HostPattern

_WILD = frozenset("*?[")
_CLASS = frozenset("[?")
"""Special to fnmatch; what they mean to a rule is left to the rule."""


def host_keys(pattern: HostPattern) -> Iterator[tuple[bool, str]]:
    """Of all patterns that could cover this one: itself, and the wildcards above."""
    yield (pattern.wildcard, pattern.host)
    labels = pattern.host.split(".")
    for cut in range(1, len(labels)):
        yield (True, ".".join(labels[cut:]))


def host_covers(outer: HostPattern, inner: HostPattern) -> bool:
    """Apart from ports."""
    if outer.wildcard:
        return inner.host.endswith(f".{outer.host}") or (inner.wildcard and inner.host == outer.host)
    return not inner.wildcard and inner.host == outer.host


def hosts_meet(one: HostPattern, other: HostPattern) -> bool:
    """Wildcards are subtrees of names: they meet only if one holds the other."""
    return host_covers(one, other) or host_covers(other, one)


def glob_covers(outer: str, inner: str) -> bool:
    """Of path globs, in which `**` is any number of whole segments and `*` stays within one."""
    return _segments_cover(outer.removeprefix("/").split("/"), inner.removeprefix("/").split("/"))


def globs_disjoint(one: str, other: str) -> bool:
    """Judged by the literal segments at both ends: the middle is taken to meet."""
    a, b = one.removeprefix("/").split("/"), other.removeprefix("/").split("/")
    return _ends_differ(a, b) or _ends_differ(a[::-1], b[::-1])


def names_cover(outer: str, inner: str) -> bool:
    """Of globs over `schema.relation`, in which `*` is any text."""
    if outer in ("*", inner):
        return True
    return not _WILD & set(inner) and not _CLASS & set(outer) and fnmatchcase(inner, outer)


def names_disjoint(one: str, other: str) -> bool:
    """Only sure where one of the two is a plain name."""
    if _CLASS & set(one + other):
        return False
    if not _WILD & set(one):
        return not fnmatchcase(one, other)
    return not _WILD & set(other) and not fnmatchcase(other, one)


def all_covered(inner: Sequence[str] | None, outer: Sequence[str] | None) -> bool:
    """Of plain values. None is everything."""
    if outer is None:
        return True
    return inner is not None and set(inner) <= set(outer)


def paths_covered(inner: Iterable[str] | None, outer: Sequence[str] | None) -> bool:
    """None is every path."""
    if outer is None:
        return True
    return all(any(glob_covers(o, i) for o in outer) for i in (["/**"] if inner is None else inner))


def _segments_cover(outer: Sequence[str], inner: Sequence[str]) -> bool:
    """In len(outer) x len(inner) steps. `reached`: how much of the inner one `outer` so far can cover."""
    reached = {0}
    for head in outer:
        if head == "**":
            reached = set(range(min(reached), len(inner) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(inner) and _segment_covers(head, inner[at])}
        if not reached:
            return False
    return len(inner) in reached


def _segment_covers(outer: str, inner: str) -> bool:
    if inner == "**":
        return False
    if outer == inner or (outer == "*" and inner != ""):
        return True
    return not _WILD & set(inner) and not _CLASS & set(outer) and fnmatchcase(inner, outer)


def _ends_differ(a: Sequence[str], b: Sequence[str]) -> bool:
    for left, right in zip(a, b, strict=False):
        if "**" in (left, right):
            return False
        if names_disjoint(left, right):
            return True
    return "**" not in (*a, *b) and len(a) != len(b)
