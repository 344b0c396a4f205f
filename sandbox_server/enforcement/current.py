"""The policy that holds now, and what follows from it for a caller."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from sandbox_server.execution.api import Caller
from sandbox_server.execution.grants import Rights
from sandbox_server.policy.decision import Principal
from sandbox_server.policy.effective import SANDBOX_TOOLS, Effective
from sandbox_server.policy.engine import effective, visible_tools
from sandbox_server.policy.models import Policy

MOST_KEPT = 64
PROFILES_JOINED = "+"
"""Between the names of egress profiles, where the roles of a caller have several."""


class Current:
    """Everybody asks it anew for each call, so `policy` can be replaced at any time."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._rights: OrderedDict[tuple[str, ...], Rights] = OrderedDict()
        self._listeners: list[Callable[[Policy], None]] = []
        self.claims = _claims(policy)
        """Names of those that the policy looks at: all that is recorded of a principal's."""

    @property
    def policy(self) -> Policy:
        return self._policy

    def replace(self, policy: Policy) -> None:
        """At once and for everybody."""
        self._policy = policy
        self._rights.clear()
        self.claims = _claims(policy)

    def on_change(self, listener: Callable[[Policy], None]) -> None:
        """`listener` is told of each new policy once it holds everywhere. It must not wait or raise."""
        self._listeners.append(listener)

    def announce(self) -> None:
        for listener in self._listeners:
            listener(self._policy)

    def effective(self, who: object) -> Effective:
        """`who` is a `Caller.who`. Whoever is not known is nobody in particular, and has what nobody has."""
        return effective(self._policy, who if isinstance(who, Principal) else Principal())

    def rights(self, who: object) -> Rights:
        """One object for each set of roles."""
        granted = self.effective(who)
        rights = self._rights.pop(granted.roles, None)
        if rights is None:
            rights = rights_of(granted)
        self._rights[granted.roles] = rights
        while len(self._rights) > MOST_KEPT:
            self._rights.popitem(last=False)
        return rights

    def caller(self, who: Principal, connection: str | None) -> Caller:
        return Caller(who.key, connection, self.rights(who), who)

    def tools(self, caller: Caller) -> tuple[str, ...]:
        """Those that the caller is shown."""
        return visible_tools(self.effective(caller.who))


def rights_of(granted: Effective) -> Rights:
    """What of it concerns sandboxes. A policy that only observes does not hide files."""
    some = granted.observe or any(tool in granted.tools.granted() for tool in SANDBOX_TOOLS)
    out = PROFILES_JOINED.join(granted.egress.profiles) or None
    concurrent = granted.quotas.get("concurrent")
    return Rights(
        languages={name: replace(each.grant, egress=out) for name, each in granted.languages.items()}
        if some
        else {},
        files=None if granted.observe else granted.files,
        runs=None if concurrent is None else int(concurrent.value),
        revision=granted.revision,
    )


def _claims(policy: Policy) -> tuple[str, ...]:
    rules = policy.file.principals or ()
    return tuple({name: None for rule in rules for name in rule.match.claims})
