"""What is counted of a server: every metric that is fed while it works. See docs/metrics.md.

Fed where the decision log is (`enforcement/`), on the event loop, and read by `scrape`. The labels of one
metric never join principals with rules and hosts: the product would soon meet the bound on series, and
each line of the decision log has all of them together.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector

from sandbox_server.observe.families import Count, Names, Spread

MOST_PRINCIPALS: Final = 100


class Metrics:
    """Of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        ProcessCollector(registry=own)
        self._principals = Names(MOST_PRINCIPALS)

        self.calls = Count(own, "sandbox_tool_calls", "Tool calls that have ended.", ("tool", "outcome"))
        self.call_time = Spread(own, "sandbox_tool_call_seconds", "How long tool calls took.", ("tool",))
        self.decisions = Count(
            own,
            "sandbox_policy_decisions",
            "Decisions of the policy, as the decision log has them.",
            ("tool", "verdict", "rule"),
            opened=("rule",),
        )
        self.quota_refusals = Count(
            own, "sandbox_quota_refusals", "Refusals because a quota was used up.", ("quota",)
        )

        self.runs = Count(
            own, "sandbox_runs", "Runs of code that have ended.", ("language", "outcome", "sandbox")
        )
        self.run_time = Spread(own, "sandbox_run_seconds", "Wall time of runs.", ("language",))
        self.run_wait = Spread(own, "sandbox_run_wait_seconds", "How long runs waited for a sandbox.")
        self.run_cpu = Count(own, "sandbox_run_cpu_seconds", "CPU time of runs.", ("language",))

        hop = ("verdict", "status", "hop", "rule", "host")
        self.web = Count(
            own, "sandbox_web_requests", "Web requests: each hop of a redirect is one.", hop, hop[3:]
        )
        self.web_time = Spread(own, "sandbox_web_request_seconds", "Time of web requests.", ("verdict",))
        self.web_sent = Count(
            own, "sandbox_web_sent_bytes", "Bytes of HTTP sent to web servers.", ("host",), ("host",)
        )
        self.web_received = Count(
            own, "sandbox_web_received_bytes", "Bytes of HTTP got from web servers.", ("host",), ("host",)
        )

        connection = ("verdict", "kind", "rule", "host")
        self.egress = Count(
            own,
            "sandbox_egress_connections",
            "Connections out of sandboxes, and requests of plain HTTP, that have ended.",
            connection,
            connection[2:],
        )
        self.egress_time = Spread(
            own, "sandbox_egress_connection_seconds", "How long they lasted.", ("verdict", "kind")
        )
        self.egress_sent = Count(
            own, "sandbox_egress_sent_bytes", "Bytes that programs sent through it.", ("host",), ("host",)
        )
        self.egress_received = Count(
            own, "sandbox_egress_received_bytes", "Bytes that programs got through it.", ("host",), ("host",)
        )

        statement = ("database", "operation", "outcome")
        self.statements = Count(
            own, "sandbox_database_statements", "SQL statements.", statement, ("database",)
        )
        self.statement_time = Spread(
            own, "sandbox_database_statement_seconds", "How long statements took.", ("operation",)
        )
        self.rows = Count(
            own,
            "sandbox_database_rows",
            "Rows handed out or changed.",
            ("database", "operation"),
            ("database",),
        )
        self.row_bytes = Count(
            own, "sandbox_database_bytes", "Bytes of rows handed out.", ("database",), ("database",)
        )

        whose = ("principal", "kind")
        self.by_principal = Count(
            own,
            "sandbox_principal_requests",
            "Calls, web requests and connections of each principal.",
            (*whose, "verdict"),
            ("principal",),
            most=16 * MOST_PRINCIPALS,
        )
        self.bytes_by_principal = Count(
            own,
            "sandbox_principal_bytes",
            "Bytes that went in and out for each principal.",
            (*whose, "direction"),
            ("principal",),
            most=16 * MOST_PRINCIPALS,
        )

    def principal(self, principal: str, kind: str, verdict: str, *, sent: int = 0, received: int = 0) -> None:
        """One thing more that was done, or refused, for a principal."""
        who = self._principals(principal)
        self.by_principal.add(who, kind, verdict)
        self.bytes_by_principal.add(who, kind, "sent", by=sent)
        self.bytes_by_principal.add(who, kind, "received", by=received)
