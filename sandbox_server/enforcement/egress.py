"""The way out of sandboxes by the policy that holds now: which profile, which hosts, how many bytes."""

from __future__ import annotations

from dataclasses import fields
from typing import Final

from sandbox_server.access.egress.models import Connect, ConnectionRecord
from sandbox_server.enforcement.current import PROFILES_JOINED
from sandbox_server.enforcement.gate import Gate
from sandbox_server.errors import ConfigError, PolicyDenied
from sandbox_server.execution.egress import EgressAccess
from sandbox_server.guards.web import EgressGrant, EgressLimits
from sandbox_server.policy.decision import Json, Principal, Request
from sandbox_server.policy.hosts_of import egress_limits

_DENIED: Final = "egress.denied"


class EgressRules:
    """What the proxy asks and tells. A caller whose roles have several profiles has all of them: what one
    allows is allowed, what one denies is denied."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def judge(self, connect: Connect) -> EgressGrant:
        """Raises PolicyDenied, AuditUnavailable."""
        quota = self._gate.current.effective(connect.who).quotas
        self._gate.quotas.check_bytes(connect.principal, quota)
        refused: PolicyDenied | None = None
        granted: EgressGrant | None = None
        for name in connect.profile.split(PROFILES_JOINED):
            try:
                decision = self._gate.judge(connect.who, Request("egress", _args(name, connect)))
            except PolicyDenied as error:
                if error.reason == _DENIED:
                    raise
                refused = refused or error
                continue
            if isinstance(decision.grant, EgressGrant):
                granted = granted or decision.grant
        if granted is None:
            raise refused or PolicyDenied("no profile allows this", rule="default")
        return granted

    def limits(self, profile: str) -> EgressLimits:
        """Of several profiles the most of each number."""
        known = self._gate.current.policy.file.egress.profiles
        found = [egress_limits(known[name]) for name in profile.split(PROFILES_JOINED) if name in known]
        if not found:
            raise ConfigError(f"there is no egress profile '{profile}' any more", hint="call again")
        numbers = [each.name for each in fields(EgressLimits) if each.name != "rate"]
        return EgressLimits(
            **{name: max(getattr(one, name) for one in found) for name in numbers},
            rate=max((one.rate for one in found), key=lambda rate: rate[0] / rate[1]),
        )

    def spend(self, access: EgressAccess, count: int) -> str:
        """Before they go on, so that many connections at once are over a quota by nothing. Raises Busy."""
        quota = self._gate.current.effective(access.who).quotas
        return self._gate.quotas.spend_bytes(access.principal, quota, count)

    def connected(self, record: ConnectionRecord) -> None:
        """After its end: recorded."""
        told = {each.name: getattr(record, each.name) for each in fields(record) if each.name != "who"}
        who = record.who if isinstance(record.who, Principal) else Principal(record.principal)
        told["principal"] = {"iss": who.iss, "sub": who.sub, "client_id": who.client_id}
        told["decision"] = "deny" if record.verdict == "denied" else "allow"
        told["protocol"] = told.pop("kind")  # which in the log is the kind of a line
        self._count(record)
        self._gate.log.told(told, kind="connection")

    def _count(self, record: ConnectionRecord) -> None:
        metrics, host = self._gate.metrics, record.pattern
        metrics.egress.add(record.verdict, record.kind, record.rule, host)
        metrics.egress_time.add(record.verdict, record.kind, seconds=record.seconds)
        metrics.egress_sent.add(host, by=record.bytes_out)
        metrics.egress_received.add(host, by=record.bytes_in)
        metrics.principal(
            record.principal, "egress", record.verdict, sent=record.bytes_out, received=record.bytes_in
        )


def _args(profile: str, connect: Connect) -> dict[str, Json]:
    args: dict[str, Json] = {
        "profile": profile, "host": connect.host, "port": connect.port, "scheme": connect.scheme
    }  # fmt: skip
    if connect.method is not None:
        args |= {"method": connect.method, "path": connect.path}
    return args
