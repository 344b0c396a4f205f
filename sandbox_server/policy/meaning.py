"""What a policy can say in the right form and yet not mean: names that nothing has, twice the same id,
secrets in plain sight, roles in a circle."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from sandbox_server.guards.sql import never
from sandbox_server.guards.urls import UrlRefused, parse_url
from sandbox_server.policy.document import Path
from sandbox_server.policy.limits import Problem, above_ceilings, language_problems
from sandbox_server.policy.roles import Cycle, closure
from sandbox_server.policy.schema.base import Rule
from sandbox_server.policy.schema.code import Code
from sandbox_server.policy.schema.file import PolicyFile, Role

NONE = "none"


def problems_of(file: PolicyFile) -> Iterator[Problem]:
    yield from _roles(file)
    yield from _principals(file)
    yield from _rule_ids(file)
    yield from _egress(file)
    yield from _strict_with_egress(file)
    yield from _resources(file)
    yield from _functions(file)
    yield from language_problems(file)
    yield from above_ceilings(file)


def circles(file: PolicyFile) -> Iterator[Problem]:
    """Nothing else can be asked of roles that inherit each other."""
    for name in file.roles:
        try:
            closure(file, (name,))
        except Cycle as cycle:
            yield Problem(("roles", name, "inherits"), f"inherits itself: {' > '.join(cycle.roles)}")


def _roles(file: PolicyFile) -> Iterator[Problem]:
    if not file.roles:
        yield Problem(("roles",), "names no role, so nobody could ever do anything")
    if len(file.roles) > 1 and file.principals is None:
        what = "is required, because there are several roles: who has which?"
        yield Problem(("principals",), what)
    for name, role in file.roles.items():
        for index, parent in enumerate(role.inherits):
            if parent not in file.roles:
                yield Problem(("roles", name, "inherits", index), _unknown("role", parent, file.roles))
        if role.code is not None and not _has_languages(file, name):
            yield Problem(
                ("roles", name, "code", "languages"), "names no language, so nothing could ever run"
            )


def _has_languages(file: PolicyFile, name: str) -> bool:
    return any((file.roles[role].code or Code()).languages for role in closure(file, (name,)))


def _principals(file: PolicyFile) -> Iterator[Problem]:
    for index, rule in enumerate(file.principals or ()):
        at: Path = ("principals", index)
        for place, role in enumerate(rule.roles):
            if role not in file.roles:
                yield Problem((*at, "roles", place), _unknown("role", role, file.roles))
        said = rule.match
        if said.any == "everyone" and (said.iss or said.sub or said.client_id or said.claims):
            yield Problem((*at, "match", "any"), "everyone has no claims: write any: everyone alone")
    yield from _twice(file.principals or (), ("principals",))


def _rule_ids(file: PolicyFile) -> Iterator[Problem]:
    for name, role in file.roles.items():
        for section in ("web", "files"):
            for kind in ("allow", "deny"):
                rules = getattr(getattr(role, section), kind, ())
                yield from _twice(rules, ("roles", name, section, kind))
    for name, profile in file.egress.profiles.items():
        yield from _twice(profile.allow, ("egress", "profiles", name, "allow"))
        yield from _twice(profile.deny, ("egress", "profiles", name, "deny"))


def _twice(rules: Iterable[Rule | object], at: Path) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for index, rule in enumerate(rules):
        identity = getattr(rule, "id", None)
        if identity is None:
            continue
        if identity in seen:
            yield Problem((*at, index, "id"), f"the same id as {at[-1]}[{seen[identity]}]")
        elif identity.isdigit():
            yield Problem((*at, index, "id"), "a number would be taken for the place in the list")
        seen.setdefault(identity, index)


def _egress(file: PolicyFile) -> Iterator[Problem]:
    profiles = file.egress.profiles
    if NONE in profiles:
        yield Problem(("egress", "profiles", NONE), "'none' means no egress and can't be a profile")
    for name, role in file.roles.items():
        wanted = role.code.egress if role.code else None
        if wanted not in (None, NONE) and wanted not in profiles:
            yield Problem(
                ("roles", name, "code", "egress"), _unknown("egress profile", str(wanted), [*profiles, NONE])
            )
    for name, profile in profiles.items():
        for index, rule in enumerate(profile.allow):
            at: Path = ("egress", "profiles", name, "allow", index)
            if rule.opaque and rule.terminate:
                yield Problem((*at, "opaque"), "what the server opens (terminate) is not opaque")
            if rule.cache and (not rule.terminate or rule.inject):
                yield Problem(
                    (*at, "cache"), "needs terminate: true, and no inject: files are kept for everybody"
                )
            if rule.opaque and (rule.methods or rule.paths or rule.inject):
                yield Problem((*at, "opaque"), "nobody sees methods, paths or headers of an opaque tunnel")


def _strict_with_egress(file: PolicyFile) -> Iterator[Problem]:
    """The way out begins with a socket on the loopback, which `seccomp: strict` refuses."""
    together = [(name,) for name in file.roles] + [rule.roles for rule in file.principals or ()]
    found: dict[str, str] = {}
    for names in together:
        roles = closure(file, names)
        codes = {name: file.roles[name].code or Code() for name in roles if name in file.roles}
        strict = next((name for name, code in codes.items() if code.seccomp == "strict"), None)
        if strict is not None:
            ways = (name for name, code in codes.items() if code.egress not in (None, NONE))
            found.update({name: found.get(name, strict) for name in ways})
    for name, strict in found.items():
        where = "" if strict == name else f" (of role {strict}, which comes with it)"
        what = f"seccomp: strict{where} allows no network socket, so nothing could get out"
        yield Problem(("roles", name, "code", "egress"), f"{what}: write none, or seccomp: default")


def _resources(file: PolicyFile) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, resource in enumerate(file.resources):
        at: Path = ("resources", index, "api")
        if resource.api.name in seen:
            yield Problem((*at, "name"), "there is another resource of this name")
        seen.add(resource.api.name)
        try:
            parse_url(resource.api.url)
        except UrlRefused as error:
            yield Problem((*at, "url"), str(error))
        for header in resource.api.inline():
            yield Problem((*at, "headers", header), "carries a credential: write secret://NAME instead")


def _functions(file: PolicyFile) -> Iterator[Problem]:
    for role, rules in file.roles.items():
        for name, database in rules.databases.items():
            for index, function in enumerate(database.functions.allow):
                if never(function):
                    at: Path = ("roles", role, "databases", name, "functions", "allow", index)
                    yield Problem(at, "reaches beyond its arguments, so no policy can allow it")


def secrets_of(file: PolicyFile) -> dict[str, str]:
    """The names of all secrets that the file refers to, and the first place of each."""
    found: dict[str, str] = {}
    _secrets(file.model_dump(mode="json", by_alias=True, exclude_none=True), "", found)
    return found


def _secrets(value: object, at: str, found: dict[str, str]) -> None:
    match value:
        case str() if value.startswith("secret://"):
            found.setdefault(value.removeprefix("secret://"), at)
        case dict():
            for key, inner in value.items():
                _secrets(inner, f"{at}.{key}" if at else str(key), found)
        case list() | tuple():
            for index, inner in enumerate(value):
                _secrets(inner, f"{at}[{index}]", found)


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(name[:80], known, n=1)
    guess = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known[:20])}"
    return f"unknown {kind}, {guess}"


def empty(role: Role) -> bool:
    """Whether a role says nothing of its own."""
    return not (role.tools or role.code or role.files or role.web or role.databases)
