"""From a judged host to a connection: names are resolved here and nowhere else, once, every address is
judged, and the judged address is what is dialled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address

import anyio
from anyio.abc import ByteStream

from sandbox_server.access.egress.models import Addresses, Dial, Refused, Resolve
from sandbox_server.access.http.own import OwnAddresses
from sandbox_server.access.http.resolver import EACH, LOOKUPS, SystemResolver
from sandbox_server.errors import SandboxServerError
from sandbox_server.guards.addresses import IPAddress
from sandbox_server.guards.addresses import judge as judge_address
from sandbox_server.guards.web import EgressGrant

RESOLVE_SECONDS = 5.0
DIAL_SECONDS = 5.0
MOST_ADDRESSES = 16
TRIES = 3
ADDRESS_RULE = "floor.address"

Listening = Callable[[IPAddress, int], bool]
"""Whether this server itself listens there."""


class Dialler:
    """Injected: how to resolve, how to dial, which addresses are this host's, where the server listens."""

    def __init__(
        self,
        resolve: Resolve | None = None,
        dial: Dial | None = None,
        own: Addresses | None = None,
        listening: Listening | None = None,
    ) -> None:
        # Apart from everybody else's threads: a resolver that hangs must hold up nothing but this. Many at
        # once wait for their turn, first among those of their own principal; where lookups that were given up
        # still hold all threads, there is none.
        self._turns = anyio.CapacityLimiter(LOOKUPS)
        self._own_turns: dict[str, anyio.CapacityLimiter] = {}
        self._resolve = resolve or SystemResolver(timeout=RESOLVE_SECONDS).resolve
        self._dial = dial or _dial
        self._own = own or OwnAddresses()
        self._listening = listening or (lambda address, port: False)

    def check(self, address: IPAddress, port: int, grant: EgressGrant) -> str | None:
        """Why this address is not dialled, or None."""
        if self._listening(address, port):
            return "where this server itself listens"
        return judge_address(address, grant.addresses, self._own())

    async def connect(
        self, host: str, port: int, grant: EgressGrant, principal: str = ""
    ) -> tuple[ByteStream, IPAddress]:
        """Raises Refused."""
        addresses = await self._addresses(host, port, principal)
        for address in addresses:
            reason = self.check(address, port, grant)
            if reason is not None:
                raise Refused(
                    f"{host} is {reason}" if str(address) in host else f"{host} has {address}, {reason}",
                    rule=ADDRESS_RULE,
                    hint=f"if that is right here, the operator can open it: addresses: [{_network(address)}] "
                    f"in {grant.rule}",
                )
        return await self._first(host, port, addresses[:TRIES])

    async def _addresses(self, host: str, port: int, principal: str) -> Sequence[IPAddress]:
        literal = _literal(host)
        if literal is not None:
            return (literal,)
        try:
            with anyio.fail_after(RESOLVE_SECONDS):
                async with self._turn(principal):
                    found = await self._resolve(host, port, principal)
        except (OSError, TimeoutError, UnicodeError, SandboxServerError):
            found = ()
        if not found:
            raise Refused(
                f"{host} could not be resolved",
                status=502,
                socks=4,
                verdict="failed",
                hint="is it spelt right?",
            )
        if len(found) > MOST_ADDRESSES:
            raise Refused(f"{host} has {len(found)} addresses, which is absurd", rule=ADDRESS_RULE)
        return found

    @asynccontextmanager
    async def _turn(self, principal: str) -> AsyncIterator[None]:
        own = self._own_turns.setdefault(principal, anyio.CapacityLimiter(EACH))
        try:
            async with own, self._turns:
                yield
        finally:
            if not own.borrowed_tokens and not own.statistics().tasks_waiting:
                self._own_turns.pop(principal, None)

    async def _first(
        self, host: str, port: int, addresses: Sequence[IPAddress]
    ) -> tuple[ByteStream, IPAddress]:
        late = False
        for address in addresses:
            try:
                with anyio.fail_after(DIAL_SECONDS):
                    return await self._dial(address, port), address
            except TimeoutError:
                late = True
            except OSError:
                late = False
        if late:
            raise Refused(f"{host}:{port} did not answer in time", status=504, socks=4, verdict="failed")
        raise Refused(f"{host}:{port} could not be connected to", status=502, socks=5, verdict="failed")


def _network(address: IPAddress) -> str:
    return f'"{address}/{address.max_prefixlen}"'


def _literal(host: str) -> IPAddress | None:
    try:
        return ip_address(host[1:-1] if host.startswith("[") else host)
    except ValueError:
        return None


async def _dial(address: IPAddress, port: int) -> ByteStream:
    return await anyio.connect_tcp(str(address), port)
