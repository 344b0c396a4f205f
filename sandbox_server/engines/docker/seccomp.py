"""Our seccomp profiles, in the form that the engine's API wants: text inside the payload, not a path."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sandbox_server.engines.profile import Seccomp
from sandbox_server.errors import ConfigError
from sandbox_server.shipped import shipped

_BITS = 32


def load_profiles() -> Mapping[Seccomp, str]:
    """Those that we ship, as the engine wants them. Raises ConfigError."""
    images = shipped("images")
    default = images / "seccomp.json"
    return {
        "default": load_seccomp(default),
        "strict": load_seccomp(default, images / "seccomp-strict.json"),
    }


def load_seccomp(path: Path, less: Path | None = None) -> str:
    """The profile as one compact line of JSON, without its comments. `less` is a file of rules that stand
    for all those of the same system calls in the first one.

    Raises ConfigError if it can't be read or lets through what it doesn't name, or if `less` is more.
    """
    profile = _read(path)
    # A profile whose default is to allow would silently turn the allowlist into nothing.
    if not isinstance(profile, dict) or profile.get("defaultAction") != "SCMP_ACT_ERRNO":
        raise ConfigError("the seccomp profile does not deny by default", hint="reinstall the package")
    if less is not None:
        profile["syscalls"] = _with_less(profile["syscalls"], _read(less)["syscalls"])
    for rule in profile["syscalls"]:
        rule.pop("comment", None)
    return json.dumps(profile, separators=(",", ":"))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the seccomp profile is not readable: {error}", hint="reinstall the package"
        ) from error


def _with_less(rules: list[dict[str, Any]], instead: list[dict[str, Any]]) -> list[dict[str, Any]]:
    replaced = {name for rule in instead for name in rule["names"]}
    allowed = {name for rule in rules if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}
    for rule in instead:
        if rule["action"] == "SCMP_ACT_ALLOW" and (more := set(rule["names"]) - allowed):
            raise ConfigError(
                f"the strict seccomp profile allows {', '.join(sorted(more))}, which the default one refuses",
                hint="reinstall the package",
            )
    kept = [{**rule, "names": [name for name in rule["names"] if name not in replaced]} for rule in rules]
    return [rule for rule in kept if rule["names"]] + [each for rule in instead for each in _spelt_out(rule)]


def _spelt_out(rule: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """`unless` in words that the engine has: rules on one argument are alternatives, never joined by 'and',
    so 'neither a nor b' is said as all bit patterns that are neither."""
    unless = rule.get("unless")
    if unless is None:
        yield rule
        return
    for mask, value in all_but(unless["values"]):
        argument = {"index": unless["index"], "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
        yield {"names": rule["names"], "action": rule["action"], "args": [argument]}


def all_but(values: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(mask, value)s of which one fits each number of 32 bits that is not among `values`, and none fits
    those. Higher bits don't matter, as they don't to the kernel: a program may set them."""
    yield from _others(frozenset(values), 0, 0, _BITS)


def _others(values: frozenset[int], mask: int, prefix: int, bits: int) -> Iterator[tuple[int, int]]:
    if not values:
        yield mask, prefix
    elif bits:
        bit = 1 << (bits - 1)
        for half in (prefix, prefix | bit):
            inside = frozenset(value for value in values if value & (mask | bit) == half)
            yield from _others(inside, mask | bit, half, bits - 1)
