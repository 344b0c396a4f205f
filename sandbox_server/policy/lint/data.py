"""Rules for files and databases: dead, needless, and broader than they look."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from sandbox_server.guards.files import Glob
from sandbox_server.policy.document import Path
from sandbox_server.policy.lint.covering import glob_covers, globs_disjoint, names_cover, names_disjoint
from sandbox_server.policy.lint.findings import Finding, observing
from sandbox_server.policy.lint.lineage import Lineage
from sandbox_server.policy.schema.databases import Database
from sandbox_server.policy.schema.file import PolicyFile
from sandbox_server.policy.schema.files import FileAllow, FileDeny, Files

_FLOOR = ("proc", "sys", "dev", "etc", "run", "usr", "root", "var", "boot")
"""Of the sandbox; what stands there is not the caller's, and the floor refuses most of it."""
_MOST_COMPARED = 200


def check(file: PolicyFile) -> Iterator[Finding]:
    lines = Lineage(file)
    for name, role in file.roles.items():
        if role.files:
            path: Path = ("roles", name, "files")
            denies = [deny for each in lines.of[name] for deny in (file.roles[each].files or Files()).deny]
            near = [
                allow for each in lines.beside(name) for allow in (file.roles[each].files or Files()).allow
            ]
            yield from _files(path, role.files.allow, denies)
            yield from _needless_files((*path, "deny"), role.files.deny, near)
        for key, database in role.databases.items():
            yield from _database(("roles", name, "databases", key), database)


def _files(path: Path, allows: Sequence[FileAllow], denies: Sequence[FileDeny]) -> Iterator[Finding]:
    by_start: defaultdict[str, list[FileDeny]] = defaultdict(list)
    for deny in denies:
        if not deny.observe:
            by_start["/".join(Glob.parse(deny.path).literal)].append(deny)
    for index, allow in enumerate(allows):
        place = (*path, "allow", index)
        if not allow.ops:
            yield Finding(
                "dead-rule", "warning", place, "matches nothing: ops is empty", "name ops, or remove it"
            )
        literal = Glob.parse(allow.path).literal
        starts = ["/".join(literal[:length]) for length in range(len(literal) + 1)]
        near = (deny for start in starts for deny in by_start.get(start, ())[:_MOST_COMPARED])
        if any(set(allow.ops) <= set(d.ops) and glob_covers(d.path, allow.path) for d in near):
            yield Finding(
                "shadowed-rule",
                "warning",
                place,
                "never matches: a rule denies all of it, and deny wins",
                "remove this rule, or narrow the one that denies",
            )
        if floor := _floor(allow.path, literal):
            yield Finding(
                "floor-path",
                "warning",
                (*place, "path"),
                f"covers {floor}, which is the sandbox's own",
                "begin with /workspace",
            )
        if allow.observe:
            yield observing((*place, "observe"))


def _floor(glob: str, literal: tuple[str, ...]) -> str:
    if not literal:
        return "" if not Glob.parse(glob).below(("proc",)) and "**" not in glob else "/proc, /sys and /etc"
    return f"/{literal[0]}" if literal[0] in _FLOOR else ""


def _needless_files(path: Path, denies: Sequence[FileDeny], allows: Sequence[FileAllow]) -> Iterator[Finding]:
    distinct = {(allow.path, frozenset(allow.ops)) for allow in allows}
    if len(distinct) > _MOST_COMPARED:
        return
    for index, deny in enumerate(denies):
        if not any(set(deny.ops) & ops and not globs_disjoint(deny.path, glob) for glob, ops in distinct):
            yield _needless((*path, index))


def _needless(path: Path) -> Finding:
    return Finding(
        "needless-deny",
        "note",
        path,
        "nothing that it denies is allowed anyway",
        "keep it as a guard against later rules, or remove it",
    )


def _database(path: Path, database: Database) -> Iterator[Finding]:
    yield from _names((*path, "relations"), database.relations.allow, database.relations.deny)
    columns = (*path, "columns")
    if database.columns.allow != ("*",):
        yield from _names(columns, database.columns.allow, database.columns.deny)
    for index, glob in enumerate(database.relations.allow):
        if set(glob) <= set("*."):
            yield Finding(
                "too-broad",
                "error" if database.mode == "write" else "warning",
                (*path, "relations", "allow", index),
                f"{'writes to' if database.mode == 'write' else 'reads'} every table, catalogs apart",
                "name the tables, or a schema as in sales.*",
            )
    if not database.relations.allow and not database.queries:
        yield Finding(
            "dead-rule",
            "warning",
            path,
            "no statement can pass: relations.allow is empty and there are no queries",
            "name relations, or remove the database",
            at_key=True,
        )
    yield from _functions((*path, "functions"), database)


def _functions(path: Path, database: Database) -> Iterator[Finding]:
    for index, function in enumerate(database.functions.allow):
        if function in database.functions.deny:
            yield Finding(
                "dead-rule", "warning", (*path, "allow", index), f"{function} is denied as well", "deny wins"
            )


def _names(path: Path, allows: Sequence[str], denies: Sequence[str]) -> Iterator[Finding]:
    exact = frozenset(denies)
    globs = [glob for glob in denies if "*" in glob][:_MOST_COMPARED]
    for index, allow in enumerate(allows):
        if allow in exact or any(names_cover(glob, allow) for glob in globs):
            yield Finding(
                "shadowed-rule",
                "warning",
                (*path, "allow", index),
                f"{allow} is denied as well, and deny wins",
                "remove it, or narrow what is denied",
            )
    meets: Callable[[str], bool] = lambda deny: any(  # noqa: E731
        not names_disjoint(deny, allow) for allow in allows
    )
    if len(allows) * len(denies) <= _MOST_COMPARED**2:
        yield from (_needless((*path, "deny", i)) for i, deny in enumerate(denies) if not meets(deny))
