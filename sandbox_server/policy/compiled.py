"""A policy file made ready to decide: who has which roles, and what each set of roles may do, made once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from sandbox_server.policy.decision import Principal
from sandbox_server.policy.effective import Aliases, Effective, build
from sandbox_server.policy.grants import ApiGrant
from sandbox_server.policy.roles import Members, Membership
from sandbox_server.policy.schema.file import PolicyFile

MOST_KEPT = 64
"""Sets of roles whose effective policy is kept. A policy with 10,000 rules takes some 10 MB for each."""


class Compiled:
    """Safe to share between tasks; holds nothing that depends on a call but what it remembers."""

    def __init__(self, file: PolicyFile, revision: str, aliases: Aliases) -> None:
        self._file = file
        self._revision = revision
        self._aliases = aliases
        self._members = Members(file)
        self._kept: OrderedDict[tuple[str, ...], Effective] = OrderedDict()
        self.apis: Mapping[str, ApiGrant] = {
            each.api.name: ApiGrant(each.api.name, each.api.url, each.api.headers, each.api.ttl)
            for each in file.resources
        }

    def remade(self, file: PolicyFile, revision: str) -> Compiled:
        """Of another file, with the same aliases."""
        return Compiled(file, revision, self._aliases)

    def membership(self, principal: Principal) -> Membership:
        return self._members.of(principal)

    def effective(self, roles: tuple[str, ...]) -> Effective:
        """Of roles as principals have them; what they inherit is added."""
        found = self._kept.pop(roles, None)
        if found is None:
            found = build(self._file, roles, self._revision, self._aliases)
        self._kept[roles] = found
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return found
