"""Paths in a sandbox: the tool `filesystem`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from sandbox_server.guards.files import canonical
from sandbox_server.policy.decision import Json, Limit
from sandbox_server.policy.effective import Effective
from sandbox_server.policy.grants import FileGrant
from sandbox_server.policy.judging.judgment import Judgment, floor, listing, text
from sandbox_server.policy.units import size_text

_ROOTS: Final = ("/workspace", "/tmp")  # noqa: S108 - the sandbox's
_OPS: Final[Mapping[str, tuple[str, ...]]] = {
    "read": ("read",),
    "stat": ("list",),
    "list": ("list",),
    "search": ("read",),
    "write": ("write",),
    "edit": ("read", "write"),
    "create_dir": ("write",),
    "delete": ("delete",),
    "move": ("read", "delete"),
    "copy": ("read",),
}


def judge(granted: Effective, args: Mapping[str, Json]) -> Judgment:
    rules, operation = granted.files, text(args, "operation")
    try:
        touched = list(_touched(operation, args, rules.root))
    except ValueError as error:
        return floor("files.path", str(error))
    shown: dict[str, Json] = {"operation": operation, "path": touched[0][1]}
    if operation in ("move", "copy"):
        shown["to"] = touched[-1][1]
    allowed: list[str] = []
    asking: list[str] = []
    observed = ""
    for op, path, tree in touched:
        if not any(path == root or path.startswith(f"{root}/") for root in _ROOTS):
            return floor("files.outside", f"{path[:200]} is not in {' or '.join(_ROOTS)}", canonical=shown)
        verdict = rules.judge(op, path, tree=tree)
        if not verdict.allowed:
            return denied(granted, op, path, verdict.rule, shown)
        (asking if verdict.ask else allowed).append(verdict.rule)
        observed = observed or verdict.observed
    limits = dict(granted.quotas)
    if rules.max_file is not None:
        source, most = rules.sources.get("max_file", ""), size_text(rules.max_file)
        limits["max_file"] = Limit(rules.max_file, source)
        if _size(args) > rules.max_file:
            message = "the file is larger than the policy allows"
            return Judgment(
                "deny", source, "files.size", message, f"at most {most}", most, shown, limits
            )  # fmt: skip
    rule = (asking or allowed)[0]
    return Judgment(
        "ask" if asking else "allow",
        rule,
        "allowed",
        canonical=shown,
        limits=limits,
        grant=FileGrant(rules),
        observed=observed,
        trace=(f"allow: {rule}",),
    )


def _touched(operation: str, args: Mapping[str, Json], root: str) -> Iterator[tuple[str, str, bool]]:
    """Each op, on what, and whether on all below it, too. Raises ValueError."""
    ops = _OPS.get(operation)
    if ops is None:
        raise ValueError("this operation is not known")
    path = canonical(text(args, "path", "."), root)
    whole = bool(args.get("recursive")) and operation in ("delete", "copy")
    yield from ((op, path, whole) for op in ops)
    if operation in ("move", "copy"):
        yield "write", canonical(text(args, "to"), root), whole


def _size(args: Mapping[str, Json]) -> int:
    """Bytes that the call writes, at least; what a file grows to is for the sandbox to say."""
    content, encoded, offset = args.get("content"), args.get("content_base64"), args.get("offset")
    size = len(content.encode("utf-8", "surrogatepass")) if isinstance(content, str) else 0
    if isinstance(encoded, str):
        size = len(encoded) * 3 // 4
    return size + (offset if isinstance(offset, int) and args.get("operation") == "write" else 0)


def denied(granted: Effective, op: str, path: str, rule: str, shown: Mapping[str, Json]) -> Judgment:
    """`rule` denies it, "": no rule allows it."""
    grant = FileGrant(granted.files)
    if rule:
        return Judgment(
            "deny",
            rule,
            "files.denied",
            f"the policy denies to {op} {path[:200]}",
            hint="use another path, or ask the operator",
            canonical=shown,
            grant=grant,
            observable=True,
            trace=(f"deny: {rule}",),
        )
    names = tuple(path.split("/")[1:])
    here = {
        name for each in granted.files.allow.around(names) if each.glob.matches(names) for name in each.ops
    }
    others = [str(each.glob) for each in granted.files.allow.first(32) if op in each.ops]
    nearest = f"{listing(sorted(here))} here" if here else f"{op} in {listing(others)}"
    return Judgment(
        "deny",
        "default",
        "files.no_rule",
        f"no rule allows to {op} {path[:200]}",
        hint=f"allowed: {nearest}",
        nearest=nearest,
        canonical=shown,
        grant=grant,
        observable=True,
        trace=("default: no rule allows it",),
    )
