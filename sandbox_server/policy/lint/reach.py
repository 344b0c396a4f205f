"""Roles, tools and principals: what nobody can have, and what more people have than meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sandbox_server.policy.document import Path
from sandbox_server.policy.effective import SANDBOX_TOOLS
from sandbox_server.policy.lint.findings import Finding
from sandbox_server.policy.lint.lineage import Lineage
from sandbox_server.policy.meaning import NONE
from sandbox_server.policy.schema.base import Strict
from sandbox_server.policy.schema.file import PolicyFile, Role, Tools
from sandbox_server.policy.units import Rate

_SECTIONS = {"code": "code_execution", "files": "filesystem", "web": "web_api", "databases": "database"}


def check(file: PolicyFile) -> Iterator[Finding]:
    lines = Lineage(file)
    yield from _unreachable(file, lines)
    for name, role in file.roles.items():
        yield from _dead_sections(file, lines, name, role)
        yield from _tools(lines, file, name, role)
        yield from _outweighed(file, lines, name, role)
        yield from _softened(file, lines, name, role)
        yield from _motionless(file, lines, name, role)
        yield from _unused_filter(file, lines, name, role)
    yield from _everyone(file, lines)
    yield from _profiles(file)


def _unreachable(file: PolicyFile, lines: Lineage) -> Iterator[Finding]:
    for name in file.roles:
        if name not in lines.reached:
            yield Finding(
                "unreachable-role",
                "warning",
                ("roles", name),
                "no principal gets this role, and no role that one gets inherits it",
                "name it under principals, or remove it",
                at_key=True,
            )


def _dead_sections(file: PolicyFile, lines: Lineage, name: str, role: Role) -> Iterator[Finding]:
    # One role for everybody need not say which tools it has: all that need no rules.
    unsaid = SANDBOX_TOOLS if file.principals is None else ()
    granted = {
        tool
        for each in lines.beside(name)
        for tools in [file.roles[each].tools]
        for tool in ((*tools.allow, *tools.ask) if tools else unsaid)
    }
    tools_of_all = [role.tools for role in file.roles.values() if role.tools]
    elsewhere = {tool for tools in tools_of_all for tool in (*tools.allow, *tools.ask)}
    for section, tool in _SECTIONS.items():
        if not getattr(role, section) or tool in granted:
            continue
        somewhere = tool in elsewhere
        yield Finding(
            "dead-rule",
            "warning",
            ("roles", name, section),
            f"these rules are for the tool {tool}, which this role does not have"
            + (", nor any role that is built on it or that it is built on" if somewhere else ""),
            f"add {tool} to roles.{name}.tools.allow, or remove {section}",
            at_key=True,
        )


def _tools(lines: Lineage, file: PolicyFile, name: str, role: Role) -> Iterator[Finding]:
    if role.tools is None:
        return
    denied = {tool for each in lines.of[name] for tool in (file.roles[each].tools or Tools()).deny}
    for key, tools in (("allow", role.tools.allow), ("ask", role.tools.ask)):
        for index, tool in enumerate(tools):
            place = ("roles", name, "tools", key, index)
            if tool in denied:
                fix = "remove it from one of the two: deny wins"
                yield Finding("dead-rule", "warning", place, f"{tool} is denied to this role as well", fix)
            elif key == "ask" and tool in role.tools.allow:
                yield Finding(
                    "ask-and-allow",
                    "warning",
                    place,
                    f"{tool} is both allowed and to be asked for",
                    "name it under one of the two",
                )


def _outweighed(file: PolicyFile, lines: Lineage, name: str, role: Role) -> Iterator[Finding]:
    """Limits that a role lowers, to no effect: of all roles that somebody has, the most permissive holds."""
    for path, model in _numbers(name, role):
        for key in type(model).model_fields:
            value = getattr(model, key)
            for other in lines.always_with(name) if value is not None else ():
                given = _said(file.roles[other], (*path[2:], key))
                if given is not None and _amount(given) > _amount(value):
                    yield Finding(
                        "outweighed",
                        "warning",
                        (*path, key),
                        f"no effect: everybody with this role has {other}, too, which gives more, and the "
                        "most permissive holds",
                        f"lower it in roles.{other}, or do not give both to one principal",
                    )
                    break


def _numbers(name: str, role: Role) -> Iterator[tuple[Path, Strict]]:
    yield ("roles", name, "quotas"), role.quotas
    if role.code:
        yield ("roles", name, "code", "defaults"), role.code.defaults
        for language, rule in role.code.languages.items():
            yield ("roles", name, "code", "languages", language), rule


def _said(role: Role, path: Path) -> object:
    here: object = role
    for step in path:
        here = here.get(step) if isinstance(here, Mapping) else getattr(here, str(step), None)
    return here


def _amount(value: object) -> float:
    """What can be compared; a rate as what it is in a second."""
    if isinstance(value, Rate):
        return value.count / value.seconds
    return float(value) if isinstance(value, int | float) else 0.0


def _softened(file: PolicyFile, lines: Lineage, name: str, role: Role) -> Iterator[Finding]:
    for key, strong in (("runtime", "runsc"), ("seccomp", "strict")):
        written = getattr(role.code, key, None)
        for other in lines.always_with(name) if written not in (None, strong) else ():
            if getattr(file.roles[other].code, key, None) == strong:
                yield Finding(
                    "outweighed",
                    "warning",
                    ("roles", name, "code", key),
                    f"no effect: everybody with this role has {other}, too, which says {strong}, and the "
                    "strictest holds",
                    f"write {strong}, or do not give both to one principal",
                )
                break


def _motionless(file: PolicyFile, lines: Lineage, name: str, role: Role) -> Iterator[Finding]:
    """A way out for which no role of the same principal grants a byte."""
    if role.code is None or role.code.egress in (None, NONE):
        return
    quotas = [(each, file.roles[each].quotas.egress_bytes) for each in (name, *lines.always_with(name))]
    said = [(each, quota) for each, quota in quotas if quota is not None]
    if said and not any(quota.count for _, quota in said):
        yield Finding(
            "egress-without-bytes",
            "warning",
            ("roles", name, "code", "egress"),
            f"moves nothing: roles.{said[0][0]}.quotas.egress_bytes is 0, and no role beside it gives more",
            f"say how much in roles.{name}.quotas, as in egress_bytes: 100MiB/day, or write egress: none",
        )


def _unused_filter(file: PolicyFile, lines: Lineage, name: str, role: Role) -> Iterator[Finding]:
    if role.code is None or role.code.seccomp != "strict":
        return
    together = (file.roles[each].code for each in (name, *lines.always_with(name)))
    if any(code is not None and code.runtime == "runsc" for code in together):
        yield Finding(
            "unused-filter",
            "note",
            ("roles", name, "code", "seccomp"),
            "gVisor answers system calls itself and takes no filter: the host's kernel is out of reach, but "
            "programs may open sockets within their sandbox",
            "nothing to do: it holds again if runtime becomes runc",
        )


def _everyone(file: PolicyFile, lines: Lineage) -> Iterator[Finding]:
    for index, rule in enumerate(file.principals or ()):
        if rule.match.any != "everyone":
            continue
        roles = {each for name in rule.roles for each in lines.of.get(name, ())}
        tools = {tool for each in roles for tool in (file.roles[each].tools or Tools()).allow}
        if outside := sorted(tools & {"web_api", "database"}):
            yield Finding(
                "too-broad",
                "warning",
                ("principals", index, "match", "any"),
                f"everyone, also without a token, gets {' and '.join(outside)}",
                "write any: authenticated, or give everyone a role without them",
            )


def _profiles(file: PolicyFile) -> Iterator[Finding]:
    used = {role.code.egress for role in file.roles.values() if role.code}
    for name in file.egress.profiles:
        if name not in used:
            yield Finding(
                "unused-profile",
                "warning",
                ("egress", "profiles", name),
                "no role uses this profile",
                f"write egress: {name} in a role's code, or remove it",
                at_key=True,
            )
