"""A server's own part of the composition: the policy in force, what it lets out, and how both change."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, fields

import anyio
import anyio.to_thread
import structlog

from sandbox_server import __version__
from sandbox_server.access.database.settings import DatabaseSettings
from sandbox_server.access.http.models import Resolver
from sandbox_server.audit.log import DecisionLog, open_log
from sandbox_server.audit.masking import AuditRules
from sandbox_server.config import Settings
from sandbox_server.enforcement.current import Current, rights_of
from sandbox_server.enforcement.databases import settings_in
from sandbox_server.enforcement.gate import Gate
from sandbox_server.enforcement.keeping import open_quotas
from sandbox_server.enforcement.reloading import Fingerprint, Reloading, check_tests
from sandbox_server.engines.profile import Profile
from sandbox_server.execution.grants import Sizing
from sandbox_server.execution.manager import Manager
from sandbox_server.observe.metrics import Metrics
from sandbox_server.observe.scrape import Scrape
from sandbox_server.observe.state import State
from sandbox_server.outside import Outside, OwnPorts, Redaction, Trust, open_outside, open_secrets, trust_of
from sandbox_server.policy.decision import Principal
from sandbox_server.policy.models import Policy
from sandbox_server.policy.records import read_principal

log = structlog.get_logger(__name__)

Check = Callable[[Policy], Awaitable[None]]
Load = Callable[[], Policy]


@dataclass(frozen=True, slots=True)
class Enforced:
    """The policy in force, before there is anything to run. `local` is the caller without a token."""

    gate: Gate
    outside: Outside
    redaction: Redaction
    ports: OwnPorts
    local: Principal

    @property
    def policy(self) -> Policy:
        return self.gate.current.policy


@asynccontextmanager
async def open_enforced(
    settings: Settings, policy: Policy, slot: str, *, resolver: Resolver | None = None
) -> AsyncIterator[Enforced]:
    """Names are looked up by `resolver`, or by the system. Raises ConfigError: a secret that is missing, a
    test of the policy that fails, a log that can't be written."""
    local = read_principal(settings.claims)
    await anyio.to_thread.run_sync(check_tests, policy, settings.policy)
    secrets, ports = open_secrets(settings), OwnPorts()
    redaction = Redaction(secrets)
    redaction.adopt(redaction.prepared(policy))
    async with AsyncExitStack() as stack:
        directory = settings.state_dir / "decisions" / slot
        record = await stack.enter_async_context(open_log(directory, audit_of(policy), redact=redaction))
        metrics = Metrics()
        kept = settings.state_dir / f"quotas-{slot}.json"
        quotas = await stack.enter_async_context(open_quotas(kept, refused=metrics.quota_refusals.add))
        gate = Gate(Current(policy), quotas, record, metrics)
        outside = await stack.enter_async_context(open_outside(settings, gate, secrets, ports, resolver))
        yield Enforced(gate, outside, redaction, ports, local)


class Ruling:
    """Over a manager that runs: puts a policy in force, now and when it changes."""

    def __init__(
        self,
        settings: Settings,
        enforced: Enforced,
        manager: Manager,
        load: Load,
        check: Check,
        seen: Fingerprint | None = None,
    ) -> None:
        self._settings = settings
        self._enforced = enforced
        self._manager = manager
        self._check = check
        self._sizing = enforced.policy.sizing
        self.reloading = Reloading(settings.policy, load, self._adopt, lambda: enforced.policy.revision, seen)
        self.metrics = Scrape(enforced.gate.metrics, self._state)
        """All of them as text, for Prometheus."""

    def begin(self) -> None:
        """With the policy that is in force already."""
        self._regrant(self._enforced.policy)

    async def _adopt(self, policy: Policy) -> None:
        """Everything that waits or is known to fail comes first, and changes nothing. Then the new one holds
        everywhere, at once; what goes wrong in that puts the old one back. Closing what it forbids comes
        last: it is forbidden already."""
        old, outside = self._enforced.policy, self._enforced.outside
        await self._check(policy)
        trust = await anyio.to_thread.run_sync(trust_of, self._settings, policy)
        databases = settings_in(policy)
        redactor = self._enforced.redaction.prepared(policy)
        if policy.revision != old.revision:
            trusted = outside.trust
            try:
                self._put_in_force(policy, trust)
            except Exception:
                self._put_in_force(old, trusted)
                raise
        self._enforced.redaction.adopt(redactor)
        self._tell_what_waits(policy)
        if policy.revision != old.revision:
            self._enforced.gate.current.announce()
            await self._close_what_it_forbids(databases)

    def _put_in_force(self, policy: Policy, trust: Trust) -> None:
        self._enforced.gate.log.rules = audit_of(policy)
        self._enforced.gate.current.replace(policy)
        self._enforced.outside.adopt(trust)
        self._regrant(policy)

    async def _close_what_it_forbids(self, databases: Iterable[DatabaseSettings]) -> None:
        outside, revision = self._enforced.outside, self._enforced.policy.revision
        try:
            outside.gateway.recheck()
            await outside.databases.keep(databases)
        except Exception:
            hint = "the new policy is in force; connections of the old one may stay open until they end"
            log.exception("policy_cleanup_failed", revision=revision, hint=hint)

    def _tell_what_waits(self, policy: Policy) -> None:
        keys = [each.name for each in fields(Sizing) if _differ(policy.sizing, self._sizing, each.name)]
        if keys:
            log.warning("policy_waits_for_restart", keys=[f"deployment.{key}" for key in keys])

    def _regrant(self, policy: Policy) -> None:
        longest = max((grant.ceiling.wall for grant in policy.every_grant), default=0.0)
        warm = warm_profiles(policy, self._enforced.local)
        rights = self._enforced.gate.current.rights
        self._manager.regrant(warm, policy.revision, rights, longest_run=longest)

    def _state(self) -> State:
        census, record = self._manager.pools.census, self._enforced.gate.log
        return State(
            version=__version__,
            revision=self._enforced.policy.revision,
            sandboxes=census.states(),
            wanted=census.wanted,
            waiting=census.waiting,
            sessions=len(self._manager.sessions.registry),
            engine_up=self._manager.pools.last_error is None,
            tunnels=self._enforced.outside.gateway.connections,
            reloads={"ok": self.reloading.reloads, "failed": self.reloading.failures},
            log_up=record.healthy,
            log_lost=record.lost,
            log_waiting=record.waiting,
        )

    async def health(self) -> dict[str, object]:
        record: DecisionLog = self._enforced.gate.log
        return {
            **await self._manager.health(),
            "revision": self._enforced.policy.revision,
            "policy_reload_failures_total": self.reloading.failures,
            "decision_log": "ok" if record.healthy else "failing",
        }


def _differ(one: Sizing, other: Sizing, name: str) -> bool:
    return bool(getattr(one, name) != getattr(other, name))


def audit_of(policy: Policy) -> AuditRules:
    return AuditRules(**policy.file.audit.model_dump())


def warm_profiles(policy: Policy, local: Principal) -> list[Profile]:
    """What is likely to be asked for: by the local caller, then by those that the policy tells apart, as many
    as half of all places can hold."""
    compiled = policy.compiled
    found = dict.fromkeys(_profiles(policy, compiled.membership(local).roles))
    if policy.file.principals is None:
        return list(found)
    for rule in policy.file.principals:
        found.update(dict.fromkeys(_profiles(policy, rule.roles)))
    most = policy.sizing.sandboxes // 2 // max(1, policy.sizing.warm)
    return list(found)[: max(1, most)]


def _profiles(policy: Policy, roles: tuple[str, ...]) -> Iterator[Profile]:
    for grant in rights_of(policy.compiled.effective(roles)).languages.values():
        yield grant.profile
