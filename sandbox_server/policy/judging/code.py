"""Languages, limits that a caller asks for, packages: `code_execution`, `process` and `sandbox`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from sandbox_server.guards.wildcards import segment_matches
from sandbox_server.policy.decision import Json, Limit
from sandbox_server.policy.effective import Effective
from sandbox_server.policy.grants import CodeGrant, LanguageGrant
from sandbox_server.policy.judging.judgment import Judgment, listing, number, text
from sandbox_server.policy.judging.nearness import closest
from sandbox_server.policy.units import quantity_text

_PACKAGE: Final = re.compile(r"(@[a-z0-9][a-z0-9._-]*/)?[A-Za-z0-9][A-Za-z0-9._-]*")
_MOST_PACKAGES: Final = 100
_MIB: Final = 1024**2
_ASKED: Final[tuple[tuple[str, str, int], ...]] = (
    ("memory_mib", "memory", _MIB),
    ("cpus", "cpus", 1),
    ("pids", "pids", 1),
    ("workspace_mib", "workspace", _MIB),
)
"""What `sandbox` takes under `limits`, what that limits, and in which unit."""


def judge(granted: Effective, tool: str, args: Mapping[str, Json]) -> Judgment:
    creates = tool == "sandbox" and args.get("operation") == "create"
    if tool == "code_execution" or creates:
        # A session without a word on its language is of the first that its maker has.
        usual = next(iter(granted.languages), "") if creates else "python"
        return _with_language(granted, args, text(args, "language", usual))
    grant = CodeGrant(None, tuple(granted.egress.profiles))
    return Judgment("allow", "", "allowed", grant=grant, limits=granted.quotas)


def _with_language(granted: Effective, args: Mapping[str, Json], name: str) -> Judgment:
    language = granted.languages.get(name)
    if language is None:
        return _not_granted(granted, name)
    limits: dict[str, Limit] = {**granted.quotas, **language.limits}
    refused = _too_much(language, args, limits) or _packages(granted, args)
    if refused is not None:
        return refused
    globs = tuple(glob for glob, _ in granted.packages)
    return Judgment(
        "allow",
        language.rule,
        "allowed",
        canonical={"language": name},
        limits=limits,
        trace=(f"allow: {language.rule}",),
        grant=CodeGrant(language, tuple(granted.egress.profiles), globs),
    )


def _not_granted(granted: Effective, name: str) -> Judgment:
    known = tuple(granted.languages)
    near = closest(name, known)
    return Judgment(
        "deny",
        "default",
        "code.language",
        "this language is not granted",
        hint=f"granted are {listing(known)}" if known else "no language is granted",
        nearest=near[0] if near else listing(known),
        canonical={"language": name[:64]},
    )


def _too_much(language: LanguageGrant, args: Mapping[str, Json], limits: dict[str, Limit]) -> Judgment | None:
    """What the caller asks for is checked against the ceilings, and holds if it is within them."""
    run, widest = language.grant.ceiling, language.grant.widest
    asked: list[tuple[str, str, float | None, float]] = [
        ("timeout", "wall", number(args, "timeout"), run.wall),
        ("max_output", "output", number(args, "max_output"), run.output),
    ]
    own = args.get("limits") or {}
    if not isinstance(own, Mapping):
        raise TypeError("limits is not a mapping")
    for name, key, unit in _ASKED if widest is not None else ():
        wanted = number(own, name)
        asked.append((f"limits.{name}", key, None if wanted is None else wanted * unit, getattr(widest, key)))
    for argument, key, wanted, ceiling in asked:
        if wanted is None:
            continue
        if wanted > ceiling:
            shown = quantity_text(key, ceiling)
            limit = {key: Limit(ceiling, f"ceilings.{key}")}
            message = f"{argument} is more than the policy allows"
            return Judgment(
                "deny",
                f"ceilings.{key}",
                "code.limit",
                message,
                hint=f"ask for at most {shown}",
                nearest=shown,
                limits=limit,
            )
        limits[key] = Limit(wanted, f"arguments.{argument}")
    return None


def _packages(granted: Effective, args: Mapping[str, Json]) -> Judgment | None:
    wanted = args.get("packages") or ()
    if not isinstance(wanted, tuple | list):
        raise TypeError("packages is not a list")
    if len(wanted) > _MOST_PACKAGES:
        return _refused(granted, "code.packages", f"more than {_MOST_PACKAGES} packages at once")
    for each in wanted:
        match = _PACKAGE.match(each) if isinstance(each, str) and "://" not in each else None
        if match is None:
            return _refused(granted, "code.package_name", "a package goes by its name, not a URL or a path")
        name = _normal(match[0])
        if not any(segment_matches(_normal(glob), name) for glob, _ in granted.packages):
            return _refused(granted, "code.packages", f"installing {name[:64]} is not granted")
    if wanted and not granted.egress.profiles:
        return _refused(granted, "code.egress", "packages need a way out, and none is granted")
    return None


def _normal(name: str) -> str:
    """PEP 503: an index takes these for the same."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _refused(granted: Effective, reason: str, message: str) -> Judgment:
    globs = listing(glob for glob, _ in granted.packages)
    return Judgment("deny", "default", reason, message, hint=f"packages granted: {globs}", nearest=globs)
