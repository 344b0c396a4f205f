"""`decide`: what becomes of a request. Pure, total, and it explains itself.

1. Who: the principal's claims give roles; roles bring those that they inherit.
2. Floor: what no policy can allow (metadata addresses, two statements at once) is denied.
3. Deny: a rule of any role that denies wins over all that allow.
4. Ask, allow: some role must allow it; if a rule that allows asks, the caller's human is asked.
5. Default: everything else is denied. So is whatever goes wrong while deciding.
"""

from __future__ import annotations

from sandbox_server.policy.decision import Decision, Principal, Request
from sandbox_server.policy.effective import Effective
from sandbox_server.policy.models import Policy

__all__ = ["decide", "effective", "visible_tools"]


def effective(policy: Policy, principal: Principal) -> Effective:
    """All that `principal` may do; made once for each set of roles."""
    return policy.compiled.effective(policy.compiled.membership(principal).roles)


def visible_tools(granted: Effective) -> tuple[str, ...]:
    """The tools that a principal with these rights is shown."""
    return granted.tools.granted()


def decide(policy: Policy, principal: Principal, request: Request) -> Decision:
    return Decision("deny", "default", "error", "not decided yet", policy.revision)
