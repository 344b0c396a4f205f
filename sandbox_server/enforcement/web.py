"""Web requests by the policy that holds now: each hop is a request of its own."""

from __future__ import annotations

from dataclasses import asdict

from sandbox_server.access.http.models import HopRecord, Judge, OnHop
from sandbox_server.enforcement.gate import Gate, admission
from sandbox_server.errors import PolicyDenied
from sandbox_server.execution.api import Caller
from sandbox_server.guards.urls import Url
from sandbox_server.guards.web import WebGrant
from sandbox_server.policy.decision import Principal, Request


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


def hop_teller(gate: Gate) -> OnHop:
    """Counts each hop after its end, and has a line of its own in the decision log for it. The call that it
    belongs to is the one under way."""

    def told(record: HopRecord) -> None:
        metrics, host = gate.metrics, record.pattern
        status = f"{record.status // 100}xx" if 100 <= record.status < 600 else ""
        hop = "redirect" if record.number else "first"
        metrics.web.add(record.verdict, status, hop, record.rule, host)
        metrics.web_time.add(record.verdict, seconds=record.seconds)
        metrics.web_sent.add(host, by=record.bytes_out)
        metrics.web_received.add(host, by=record.bytes_in)
        metrics.principal(
            record.principal, "web", record.verdict, sent=record.bytes_out, received=record.bytes_in
        )
        entered = admission()
        who = Principal(record.principal) if entered is None else entered.who
        gate.log.told(
            {
                **asdict(record),
                "principal": {"iss": who.iss, "sub": who.sub, "client_id": who.client_id},
                "decision": "deny" if record.verdict == "denied" else "allow",
                "call": "" if entered is None else entered.identity,
            },
            kind="request",
        )

    return told
