"""The way out of all sandboxes: whoever may use it, and everything that goes through it now."""

from __future__ import annotations

import logging
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import anyio
from anyio.abc import ByteStream

from sandbox_server.access.egress.authority import Authority
from sandbox_server.access.egress.cache import FileCache
from sandbox_server.access.egress.connection import Connection, denied
from sandbox_server.access.egress.dial import Dialler
from sandbox_server.access.egress.models import (
    Connect,
    ConnectionRecord,
    Judge,
    OnConnection,
    Refused,
    Secrets,
    Spend,
)
from sandbox_server.access.egress.pace import Pace
from sandbox_server.access.egress.protocols import decline, speak
from sandbox_server.access.egress.streams import ENDS, Client, Meter, flat
from sandbox_server.access.egress.trust import server_context
from sandbox_server.errors import ConfigError, PolicyDenied, QuotaExceeded
from sandbox_server.execution.egress import EgressAccess
from sandbox_server.guards.web import EgressGrant, EgressLimits

_log = logging.getLogger(__name__)

Limits = Callable[[str], EgressLimits]
"""Of a profile, as they are now. Raises ConfigError if there is none of that name."""
MOST_CONNECTIONS = 1024
MOST_OF_EACH = MOST_CONNECTIONS // 4
MOST_TURNED_AWAY = 64
TURN_AWAY_SECONDS = 2.0
TOO_MANY = "floor.connections"


def no_secrets(name: str) -> str:
    raise ConfigError(f"there is no secret '{name}'", hint="the operator must set up secrets")


class Gateway:
    """Implements `execution.egress.Egress`.

    `judge` and `limits` are asked anew for every connection, so a reload of the policy needs no more than
    `recheck`. `trust` is what sandboxes are given to trust, `tls` checks the servers behind hosts that are
    terminated, by `authority`. `environment` is what programs are told besides, `cache` keeps what rules
    that terminate let it keep, `spend` counts what programs send.
    """

    def __init__(
        self,
        judge: Judge,
        limits: Limits,
        *,
        dialler: Dialler | None = None,
        on_connection: OnConnection = lambda record: None,
        spend: Spend = lambda access, count: "",
        secrets: Secrets = no_secrets,
        authority: Authority | None = None,
        trust: bytes = b"",
        tls: ssl.SSLContext | None = None,
        most: int = MOST_CONNECTIONS,
        most_of_each: int = MOST_OF_EACH,
        environment: Mapping[str, str] = MappingProxyType({}),
        cache: FileCache | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._judge = judge
        self.limits = limits
        self.dialler = dialler or Dialler()
        self.secrets = secrets
        self.authority = authority
        self.trust = trust
        self.tls = tls or server_context()
        self.environment = environment
        self.cache = cache
        self.pace = pace or Pace()
        self._on_connection = on_connection
        self._spend = spend
        self._most = most
        self._most_of_each = most_of_each
        self._live: set[Connection] = set()
        self._turning_away = 0
        self._of_each: Counter[str] = Counter()

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._live)

    def outlet(self, access: EgressAccess) -> SandboxOutlet:
        self.limits(access.profile)
        return SandboxOutlet(self, access)

    def decide(self, connect: Connect) -> EgressGrant:
        """Raises Refused."""
        try:
            return self._judge(connect)
        except PolicyDenied as error:
            raise denied(error) from None
        except QuotaExceeded as error:
            wait = f"wait {error.retry_after:g} s, or ask the operator for more"
            raise Refused(error.message, rule=error.rule, hint=wait) from None
        except Exception:
            _log.exception("the policy could not judge a connection: it is denied")
            raise Refused(
                "the policy could not be evaluated", rule="floor.error", hint="tell the operator"
            ) from None

    def spend(self, access: EgressAccess, count: int) -> str:
        """As `Spend`; what can't be counted is over it."""
        try:
            return self._spend(access, count)
        except Exception:
            _log.exception("bytes out of a sandbox could not be counted: its connection is closed")
            return "floor.error"

    def recheck(self) -> int:
        """Close what the rules as they are now do not allow. Returns how many were closed."""
        over = [connection for connection in self._live if not connection.is_still_allowed()]
        for connection in over:
            connection.end("the policy has changed")
        return len(over)

    def report(self, record: ConnectionRecord) -> None:
        try:
            self._on_connection(record)
        except Exception:
            _log.exception("a connection could not be reported")

    async def serve(self, connection: Connection) -> None:
        """To its end; raises nothing that a program or a server can cause."""
        principal = connection.access.principal
        over = self._too_many(principal)
        if over:
            await self._turn_away(connection, over)
            return
        self._live.add(connection)
        self._of_each[principal] += 1
        try:
            with connection.scope, flat():
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(connection.watch)
                    await connection.wait_its_turn()
                    await speak(connection)
                    tasks.cancel_scope.cancel()
        except ENDS:
            pass  # it is in the record
        finally:
            connection.last_words()
            self._live.discard(connection)
            self._of_each[principal] -= 1
            if not self._of_each[principal]:
                del self._of_each[principal]

    async def _turn_away(self, connection: Connection, why: str) -> None:
        """With a word, if it is asked for in time and not too many others get theirs."""
        if self._turning_away >= MOST_TURNED_AWAY:
            with connection.told() as story:
                story.reason = why
            return
        self._turning_away += 1
        hint = "close some, or wait for others to end"
        try:
            with anyio.move_on_after(TURN_AWAY_SECONDS), flat():
                await decline(
                    connection, Refused(why, hint=hint, rule=TOO_MANY, status=503, socks=1, verdict="failed")
                )
        except ENDS:
            pass  # it is in the record
        finally:
            self._turning_away -= 1

    def _too_many(self, principal: str) -> str:
        """Why one more is not taken, or an empty string. Nobody can take what all need."""
        if len(self._live) >= self._most:
            return "too many connections out of all sandboxes"
        if self._of_each[principal] >= self._most_of_each:
            return "too many connections out of the sandboxes of one principal"
        return ""


class SandboxOutlet:
    """Implements `execution.egress.Outlet`."""

    def __init__(self, gateway: Gateway, access: EgressAccess) -> None:
        self._gateway = gateway
        self._access = access
        self.meter = Meter()

    @property
    def tunnels(self) -> int:
        return self._gateway.limits(self._access.profile).tunnels

    @property
    def trust(self) -> bytes:
        return self._gateway.trust

    @property
    def environment(self) -> Mapping[str, str]:
        return self._gateway.environment

    @property
    def cached(self) -> int:
        return self.meter.cached

    async def serve(self, tunnel: ByteStream) -> None:
        try:
            limits = self._gateway.limits(self._access.profile)
        except ConfigError:
            return  # a reload has taken the profile away
        client = Client(tunnel, self.meter, limits, partial(self._gateway.spend, self._access))
        await self._gateway.serve(Connection(self._gateway, self._access, client, limits))
