"""Who has which roles, and what roles a role brings with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sandbox_server.policy.decision import Json, Principal
from sandbox_server.policy.schema.file import Match, PolicyFile, PrincipalRule


class Cycle(Exception):
    """Roles inherit each other. `roles` is the way round."""

    def __init__(self, roles: tuple[str, ...]) -> None:
        super().__init__(" > ".join(roles))
        self.roles = roles


def closure(file: PolicyFile, names: Iterable[str]) -> tuple[str, ...]:
    """The roles and all that they inherit; each comes before what it inherits. Raises Cycle.

    Unknown names are left out: the loader has refused them.
    """
    found: dict[str, None] = {}
    for name in names:
        _visit(file, name, (), found)
    return tuple(found)


def _visit(file: PolicyFile, name: str, way: tuple[str, ...], found: dict[str, None]) -> None:
    if name in way:
        raise Cycle((*way[way.index(name) :], name))
    if name in found or name not in file.roles:
        return
    found[name] = None
    for parent in file.roles[name].inherits:
        _visit(file, parent, (*way, name), found)


@dataclass(frozen=True, slots=True)
class Membership:
    """`matched` are the rules that gave the roles: `principals[0]`, or "" where one role is everybody's."""

    roles: tuple[str, ...] = ()
    matched: tuple[str, ...] = ()


class Members:
    """The principals of a policy, indexed by what most of them are told apart by."""

    def __init__(self, file: PolicyFile) -> None:
        self._all: tuple[str, ...] | None = None
        if file.principals is None:
            self._all = tuple(file.roles)[:1] if len(file.roles) == 1 else ()
        self._by_sub: dict[str, list[int]] = {}
        self._by_iss: dict[str, list[int]] = {}
        self._others: list[int] = []
        self._rules: tuple[PrincipalRule, ...] = file.principals or ()
        for index, rule in enumerate(self._rules):
            if rule.match.sub is not None:
                self._by_sub.setdefault(rule.match.sub, []).append(index)
            elif rule.match.iss is not None:
                self._by_iss.setdefault(rule.match.iss, []).append(index)
            else:
                self._others.append(index)

    def of(self, principal: Principal) -> Membership:
        """All rules that match give their roles."""
        if self._all is not None:
            return Membership(self._all, ("",) if self._all else ())
        likely = [
            *self._others,
            *self._by_sub.get(principal.sub, ()),
            *self._by_iss.get(principal.iss or "", ()),
        ]
        matched = [index for index in sorted(likely) if matches(self._rules[index].match, principal)]
        roles: dict[str, None] = {}
        for index in matched:
            roles.update(dict.fromkeys(self._rules[index].roles))
        return Membership(tuple(roles), tuple(_label(index, self._rules[index]) for index in matched))


def _label(index: int, rule: PrincipalRule) -> str:
    return f"principals[{rule.id or index}]"


def matches(match: Match, principal: Principal) -> bool:
    """Whether all that `match` says holds. Nothing is true of who is not authenticated but `everyone`."""
    if not principal.authenticated:
        return match.any == "everyone" and not (match.iss or match.sub or match.client_id or match.claims)
    for wanted, have in (
        (match.iss, principal.iss),
        (match.sub, principal.sub),
        (match.client_id, principal.client_id),
    ):
        if wanted is not None and wanted != have:
            return False
    return all(_claim(name, wanted, principal.claims) for name, wanted in match.claims.items())


def _claim(name: str, wanted: object, claims: Mapping[str, Json]) -> bool:
    if name not in claims:
        return False
    have = claims[name]
    if name == "scope" and isinstance(have, str):
        # RFC 8693: scopes are one string, with spaces between them.
        have = tuple(have.split(" "))
    holds = have if isinstance(have, tuple | list) else (have,)
    any_of = wanted if isinstance(wanted, tuple) else (wanted,)
    # True is not 1 here, and "1" is neither.
    return any(type(one) is type(other) and one == other for one in any_of for other in holds)
