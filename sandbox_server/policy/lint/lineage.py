"""Which roles stand together: by inheritance, and by the principals that get them."""

from __future__ import annotations

from collections.abc import Iterator

from sandbox_server.policy.roles import closure
from sandbox_server.policy.schema.file import PolicyFile


class Lineage:
    """All of a policy's. `reached` are the roles that some principal has, inherited ones included."""

    def __init__(self, file: PolicyFile) -> None:
        self.of = {name: closure(file, (name,)) for name in file.roles}
        self.heirs: dict[str, set[str]] = {name: set() for name in file.roles}
        """Of each role, those that have its rules: itself and what inherits it."""
        for name, line in self.of.items():
            for each in line:
                self.heirs[each].add(name)
        granted = (
            file.roles if file.principals is None else {r for rule in file.principals for r in rule.roles}
        )
        self.reached = {each for name in granted for each in self.of.get(name, ())}
        self._companions = _companions(file)

    def beside(self, name: str) -> Iterator[str]:
        """Every role whose rules can hold together with those of `name` by inheritance."""
        seen: set[str] = set()
        for heir in self.heirs[name]:
            for each in self.of[heir]:
                if each not in seen:
                    seen.add(each)
                    yield each

    def always_with(self, name: str) -> tuple[str, ...]:
        """Roles that whoever has `name` has as well."""
        found = dict.fromkeys(self.of[name])
        for each in self._companions.get(name, ()):
            found.update(dict.fromkeys(self.of.get(each, ())))
        return tuple(each for each in found if each != name)


def _companions(file: PolicyFile) -> dict[str, set[str]]:
    rules = file.principals or ()
    open_to_all = {role for rule in rules if not rule.match.model_fields_set - {"any"} for role in rule.roles}
    together: dict[str, set[str]] = {}
    for rule in rules:
        for role in rule.roles:
            with_it = set(rule.roles) - {role}
            together[role] = together[role] & with_it if role in together else with_it
    return {role: others | (open_to_all - {role}) for role, others in together.items()}
