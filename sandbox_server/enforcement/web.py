"""Web requests by the policy that holds now: each hop is a request of its own."""

from __future__ import annotations

from sandbox_server.access.http.models import Judge
from sandbox_server.enforcement.gate import Gate, admission
from sandbox_server.errors import PolicyDenied
from sandbox_server.execution.api import Caller
from sandbox_server.guards.urls import Url
from sandbox_server.guards.web import WebGrant
from sandbox_server.policy.decision import Request


def web_judge(gate: Gate, caller: Caller) -> Judge:
    """For one call. The first hop was decided and recorded when the call was admitted, the others here."""
    first = True

    def judge(method: str, url: Url, size: int) -> WebGrant:
        nonlocal first
        recorded, first = first and admission() is not None, False
        # What the body says is no matter of the rules, only how long it is.
        request = Request("web_api", {"method": method, "url": str(url), "data": " " * size or None})
        decision = gate.judge(caller.who, request, record=not recorded)
        if not isinstance(decision.grant, WebGrant):
            raise PolicyDenied("the policy grants nothing for this", rule=decision.rule)
        return decision.grant

    return judge
