"""A policy that loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sandbox_server.execution.grants import Grant, Sizing
from sandbox_server.policy.compiled import Compiled
from sandbox_server.policy.schema.file import PolicyFile

__all__ = ["Policy", "PolicyFile"]


@dataclass(frozen=True, slots=True)
class Policy:
    """What `decide` judges by. `revision` is "sha256:" and the digest of everything it says, built-in
    defaults and resolved aliases included, so that two servers that enforce the same have the same.

    `file` is what was written, with everything that it extends and includes. `role` is the one that everybody
    has, or "" where principals are told apart; `grants` are the languages of a caller without a token.
    `every_grant` are those of all roles: what images and runtimes a deployment needs. `secrets` are the
    names it refers to, and where. `compiled` is `file` made ready to decide; not part of what a policy is.
    """

    source: str
    revision: str
    role: str
    grants: Mapping[str, Grant]
    sizing: Sizing
    file: PolicyFile
    every_grant: tuple[Grant, ...] = field(compare=False, default=())
    secrets: Mapping[str, str] = field(compare=False, default_factory=dict)
    unresolved: tuple[str, ...] = ()
    """Aliases of hosts that nothing resolved; rules with them match nothing."""
    compiled: Compiled = field(compare=False, repr=False, kw_only=True)

    def variants(self) -> dict[str, Grant]:
        """One grant for each sandbox that some role has, by its language; `python (2)` where roles differ."""
        found: dict[str, Grant] = {}
        for grant in self.every_grant:
            name = grant.language.name
            same = [each for each in found.values() if each.language == grant.language]
            if all(each.profile != grant.profile for each in same):
                found[f"{name} ({len(same) + 1})" if same else name] = grant
        return found

    def with_file(self, file: PolicyFile) -> Policy:
        """To ask what another file would decide: nothing but decisions is made anew."""
        return replace(self, file=file, compiled=self.compiled.remade(file, self.revision))
