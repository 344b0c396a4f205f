"""From a judged host to a connection: names are resolved here and nowhere else, once, every address is
judged, and the judged address is what is dialled."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.abc import ByteStream

from sandbox_server.access.egress.models import Addresses, Dial, Refused, Resolve
from sandbox_server.guards.addresses import IPAddress
from sandbox_server.guards.addresses import judge as judge_address
from sandbox_server.guards.web import EgressGrant

RESOLVE_SECONDS = 5.0
DIAL_SECONDS = 5.0
MOST_ADDRESSES = 16
OWN_SECONDS = 5.0
TRIES = 3
_RESOLVERS = 8
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
        # Apart from everybody else's threads: a resolver that hangs must hold up nothing but this.
        limiter = anyio.CapacityLimiter(_RESOLVERS)

        async def look_up(host: str, port: int) -> Sequence[IPAddress]:
            return await _look_up(host, port, limiter)

        self._resolve = resolve or look_up
        self._dial = dial or _dial
        self._own = own or own_addresses
        self._known: tuple[float, frozenset[IPAddress]] | None = None
        self._listening = listening or (lambda address, port: False)

    def check(self, address: IPAddress, port: int, grant: EgressGrant) -> str | None:
        """Why this address is not dialled, or None."""
        if self._listening(address, port):
            return "where this server itself listens"
        return judge_address(address, grant.addresses, self._own_now())

    def _own_now(self) -> frozenset[IPAddress]:
        """Asked for again after some seconds: hosts get addresses while they run."""
        now = time.monotonic()
        if self._known is None or now - self._known[0] > OWN_SECONDS:
            self._known = (now, frozenset(self._own()))
        return self._known[1]

    async def connect(self, host: str, port: int, grant: EgressGrant) -> tuple[ByteStream, IPAddress]:
        """Raises Refused."""
        addresses = await self._addresses(host, port)
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

    async def _addresses(self, host: str, port: int) -> Sequence[IPAddress]:
        literal = _literal(host)
        if literal is not None:
            return (literal,)
        try:
            with anyio.fail_after(RESOLVE_SECONDS):
                found = await self._resolve(host, port)
        except (OSError, TimeoutError, UnicodeError):
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


async def _look_up(host: str, port: int, limiter: anyio.CapacityLimiter) -> Sequence[IPAddress]:
    def work() -> list[IPAddress]:
        # The root's dot: no search domain completes a judged name to another one.
        found = socket.getaddrinfo(f"{host}.", port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(ip_address(str(entry[4][0]).partition("%")[0]) for entry in found))

    return await anyio.to_thread.run_sync(work, limiter=limiter, abandon_on_cancel=True)


async def _dial(address: IPAddress, port: int) -> ByteStream:
    return await anyio.connect_tcp(str(address), port)


def own_addresses() -> tuple[IPAddress, ...]:
    """Of this host, as the kernel has them now."""
    return (*_own_v4(), *_own_v6())


def _own_v4() -> list[IPAddress]:
    found: dict[IPAddress, None] = {}
    try:
        lines = Path("/proc/net/fib_trie").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    for line, after in pairwise(lines):
        if "|--" in line and "/32 host LOCAL" in after:
            found[ip_address(line.split()[-1])] = None
    return list(found)


def _own_v6() -> list[IPAddress]:
    try:
        lines = Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    return [ip_address(int(line.split()[0], 16).to_bytes(16, "big")) for line in lines]
