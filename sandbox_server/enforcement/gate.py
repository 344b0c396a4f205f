"""The one point that every call passes: quota, decision, record, the human's word, and the outcome."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial

import anyio
import anyio.to_thread

from sandbox_server.audit.log import DecisionLog
from sandbox_server.enforcement.current import Current
from sandbox_server.enforcement.quotas import Quotas, kind_of
from sandbox_server.errors import Busy, PolicyDenied, QuotaExceeded, SandboxServerError
from sandbox_server.execution.api import Caller
from sandbox_server.observe.metrics import Metrics
from sandbox_server.policy.decision import Decision, Limit, Principal, Request
from sandbox_server.policy.engine import decide
from sandbox_server.policy.grants import StatementGrant
from sandbox_server.policy.models import Policy
from sandbox_server.policy.records import decision_record

Columns = Mapping[str, tuple[str, ...]]
Confirm = Callable[[Decision], Awaitable[bool]]
"""Asks the caller's human. Raises `Unanswered` if the answer will come with another call."""


class Unanswered(Exception):
    """The question is on its way; this call ends without having done anything."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A run of code. `sandbox`: whether it was `warm` (ready, or its session's), `cold` (the call waited for
    it) or `reused`; `none` if the run has no result. `waited` and `wall` in seconds."""

    language: str
    sandbox: str = "none"
    waited: float = 0.0
    wall: float = 0.0


@dataclass(slots=True)
class Admission:
    """A call that may go on, of `who`; `identity` is its decision's in the log. Whoever carries it out says
    what came of it: `outcome` if it is not simply ok, CPU seconds (None: nobody knows), bytes, rows of a
    statement, and the run if it was one."""

    request: Request
    decision: Decision
    who: Principal = field(default_factory=Principal)
    identity: str = ""
    outcome: str = "ok"
    cpu: float | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    rows: int = 0
    ran: Ran | None = None
    detail: dict[str, object] = field(default_factory=dict)

    @property
    def confirmed(self) -> bool:
        return self.decision.effect == "ask"


_REFUSED = (PolicyDenied.code, QuotaExceeded.code)

_admission: ContextVar[Admission | None] = ContextVar("admission", default=None)


def admission() -> Admission | None:
    """That of the call that is being carried out, for judges further down."""
    return _admission.get()


class Gate:
    """Safe for many calls at once. Whatever goes wrong in here is a call that is not made."""

    def __init__(
        self, current: Current, quotas: Quotas, log: DecisionLog, metrics: Metrics | None = None
    ) -> None:
        self.current = current
        self.quotas = quotas
        self.log = log
        self.metrics = metrics or Metrics()
        self._judging = anyio.CapacityLimiter(2)

    @asynccontextmanager
    async def admit(
        self, caller: Caller, request: Request, confirm: Confirm, *, columns: Columns | None = None
    ) -> AsyncIterator[Admission]:
        """Raises PolicyDenied, QuotaExceeded, AuditUnavailable, Busy, and what `confirm` raises."""
        begun = time.monotonic()
        policy, who = self.current.policy, _known(caller.who)
        quota = self.current.effective(who).quotas
        decision = self._within(caller, request, quota)
        if decision is None:
            decision = await self._decided(policy, who, request, columns)
        record = decision_record(who, request, decision, claims=self.current.claims)
        self._count(request, decision)
        identity = await self.log.decision(record)
        entered = Admission(request, decision, who, identity)
        outcome = "error"
        try:
            await self._answered(decision, confirm)
            self._check_current(caller, decision)
            # Who has used up its time can still look, and end what runs.
            runs = kind_of(request) == "runs"
            cpu = _cpu(request, decision)
            reserved = self.quotas.reserve_cpu(caller.principal, quota, cpu) if runs else None
            token = _admission.set(entered)
            try:
                yield entered
            except SandboxServerError as error:
                if error.retry_safe:
                    entered.cpu = 0.0  # nothing was run, however long it waited for its turn
                raise
            finally:
                _admission.reset(token)
                used = entered.cpu if entered.cpu is not None else _at_most(request, decision, begun)
                self.quotas.settle_cpu(reserved, used)
            outcome = entered.outcome
        except SandboxServerError as error:
            outcome = error.code
            raise
        except Unanswered:
            outcome = "asked"
            raise
        except anyio.get_cancelled_exc_class():
            outcome = "cancelled"
            raise
        finally:
            duration = time.monotonic() - begun
            self.log.outcome(
                identity,
                outcome,
                duration=duration,
                bytes_in=entered.bytes_in,
                bytes_out=entered.bytes_out,
                detail=entered.detail,
            )
            self._count_outcome(caller.principal, entered, outcome, duration)

    def judge(
        self, who: object, request: Request, *, record: bool = True, columns: Columns | None = None
    ) -> Decision:
        """For what a call that was admitted does further on, such as following a redirect. Does not wait.
        Raises PolicyDenied; nobody is asked any more, so what would have to be is denied."""
        principal = _known(who)
        decision = decide(self.current.policy, principal, request, columns=columns)
        entered = admission()
        # The human has seen one rule's question: a yes to it is none to another's.
        same = entered is not None and entered.confirmed and entered.decision.rule == decision.rule
        if decision.effect == "ask" and not same:
            decision = replace(
                decision,
                effect="deny",
                reason="ask.too_late",
                message="the policy asks a human before this",
                hint="call it directly",
                grant=None,
            )
        if record:
            self._count(request, decision)
            self.log.told(decision_record(principal, request, decision, claims=self.current.claims))
        if decision.effect == "deny":
            raise denied(decision)
        return decision

    def _count(self, request: Request, decision: Decision) -> None:
        verdict = "would_deny" if decision.would_deny else decision.effect
        self.metrics.decisions.add(request.tool, verdict, decision.rule)

    def _count_outcome(self, principal: str, call: Admission, outcome: str, seconds: float) -> None:
        metrics, tool = self.metrics, call.request.tool
        if outcome != "asked":  # it comes again, with the answer
            verdict = "denied" if outcome in _REFUSED else "allowed"
            metrics.principal(principal, "call", verdict, sent=call.bytes_out, received=call.bytes_in)
        if call.ran is not None:
            ran = call.ran
            metrics.runs.add(ran.language, outcome, ran.sandbox)
            if ran.sandbox != "none":  # of which nobody knows how long they waited and ran
                metrics.run_time.add(ran.language, seconds=ran.wall)
                metrics.run_wait.add(seconds=ran.waited)
            metrics.run_cpu.add(ran.language, by=call.cpu or 0.0)
        elif tool == "web_api" and call.decision.effect == "deny":
            # It has no hop of which anybody else could tell.
            metrics.web.add("denied", "", "first", call.decision.rule, "")
        elif tool == "database":
            # What a caller calls a database may be anything; a grant has the policy's own name of it.
            grant, operation = call.decision.grant, str(call.request.args.get("operation", "select"))
            name = grant.database.name if isinstance(grant, StatementGrant) else ""
            metrics.statements.add(name, operation, outcome)
            metrics.statement_time.add(operation, seconds=seconds)
            metrics.rows.add(name, operation, by=call.rows)
            metrics.row_bytes.add(name, by=call.bytes_in)

    def used(self, principal: str, who: object, seconds: float) -> None:
        """CPU time of background processes: see `Manager`."""
        self.quotas.charge_cpu(principal, self.current.effective(who).quotas, seconds)

    async def _decided(
        self, policy: Policy, who: Principal, request: Request, columns: Columns | None
    ) -> Decision:
        """Judging SQL takes milliseconds, and up to half a second of what was made to take long: that is done
        elsewhere than in the loop that serves everybody."""
        asked = partial(decide, policy, who, request, columns=columns)
        if request.tool != "database":
            return asked()
        return await anyio.to_thread.run_sync(asked, limiter=self._judging)

    def _within(self, caller: Caller, request: Request, quota: Mapping[str, Limit]) -> Decision | None:
        """None while the quota lasts, else the denial. Also calls that are denied then have counted."""
        kind = kind_of(request)
        if not kind:
            return None
        try:
            self.quotas.take(caller.principal, kind, quota)
        except (QuotaExceeded, PolicyDenied) as error:
            return Decision(
                "deny", error.rule, f"quota.{kind}", error.message, self.current.policy.revision,
                hint=error.hint, limits=quota,
                retry_after=error.retry_after if isinstance(error, QuotaExceeded) else None,
            )  # fmt: skip
        return None

    async def _answered(self, decision: Decision, confirm: Confirm) -> None:
        if decision.effect == "deny":
            raise denied(decision)
        if decision.effect == "ask" and not await confirm(decision):
            raise PolicyDenied(
                "the policy asks a human before this, and nobody has agreed",
                rule=decision.rule,
                hint="nothing was run; it needs a client that can ask (elicitation), and a yes",
            )

    def _check_current(self, caller: Caller, decision: Decision) -> None:
        """A policy that was replaced while the line was written or the human asked decides nothing more, nor
        do the rights that the caller brought. Raises Busy."""
        revision = self.current.policy.revision
        brought = revision if caller.rights is None else caller.rights.revision
        if not decision.revision == brought == revision:
            raise Busy("the policy has just changed", retry_after=0.1, hint="nothing was run; call again")


def denied(decision: Decision) -> PolicyDenied | QuotaExceeded:
    """What the caller is told. It is for a model, which should learn what it may do instead."""
    hint = decision.hint
    if decision.retry_after is not None:
        return QuotaExceeded(
            decision.message, rule=decision.rule, retry_after=decision.retry_after, hint=hint
        )
    if decision.nearest and decision.nearest not in hint:
        hint = f"{hint}; nearest: {decision.nearest}" if hint else f"nearest: {decision.nearest}"
    return PolicyDenied(
        decision.message or "the policy denies this", rule=decision.rule, hint=hint, reason=decision.reason
    )


def _known(who: object) -> Principal:
    return who if isinstance(who, Principal) else Principal()


def _cpu(request: Request, decision: Decision) -> float:
    """Seconds that a call may use; only runs are known to end. A session that is made has their limits, and
    uses nothing."""
    limit = decision.limits.get("cpu")
    return float(limit.value) if request.tool == "code_execution" and limit is not None else 0.0


def _at_most(request: Request, decision: Decision, begun: float) -> float:
    """What a run that nobody has measured can have used: all its processors for all the time."""
    cpus = decision.limits.get("cpus")
    elapsed = (time.monotonic() - begun) * float(cpus.value if cpus is not None else 1)
    return min(_cpu(request, decision), elapsed)
