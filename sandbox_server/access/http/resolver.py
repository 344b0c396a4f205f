"""The system's resolver, asked in threads of its own and never through a search domain."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import anyio
import anyio.to_thread

from sandbox_server.errors import Busy, UpstreamUnreachable
from sandbox_server.guards.addresses import IPAddress

LOOKUPS = 32
EACH = 8


class SystemResolver:
    """/etc/hosts first, then DNS for exactly the name that was judged: with a final dot, without which a
    search domain could answer for it. At most `lookups` names are looked up at once, `each` for a principal:
    whoever asks for names whose servers never answer holds up nobody else.
    """

    def __init__(
        self,
        *,
        timeout: float = 5.0,
        lookups: int = LOOKUPS,
        each: int = EACH,
        hosts: Path = Path("/etc/hosts"),
    ) -> None:
        self._timeout = timeout
        self._limiter = anyio.CapacityLimiter(lookups)
        self._slots = _Slots(lookups, each)
        self._hosts = hosts

    async def resolve(self, host: str, port: int, principal: str = "") -> Sequence[IPAddress]:
        # A lookup that we gave up goes on in its thread, and only its own end makes room for another.
        if not self._slots.take(principal):
            raise Busy("Too many names are being looked up.", retry_after=self._timeout)
        owner: dict[str, str] = {}

        def look_up() -> Sequence[IPAddress]:
            if owner.setdefault("slot", "thread") != "thread":
                return []
            try:
                return _in_hosts_file(self._hosts, host) or _in_dns(host, port)
            finally:
                self._slots.give(principal)

        try:
            with anyio.fail_after(self._timeout):
                return await anyio.to_thread.run_sync(look_up, abandon_on_cancel=True, limiter=self._limiter)
        except TimeoutError:
            raise UpstreamUnreachable(
                f"{host} was not resolved within {self._timeout:g} s.", reason="web.dns"
            ) from None
        finally:
            if owner.setdefault("slot", "loop") == "loop":
                self._slots.give(principal)


class _Slots:
    """Of all and of each; what a thread gives back, too."""

    def __init__(self, most: int, each: int) -> None:
        self._most = most
        self._each = each
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, principal: str) -> bool:
        with self._lock:
            if self._taken.total() >= self._most or self._taken[principal] >= self._each:
                return False
            self._taken[principal] += 1
            return True

    def give(self, principal: str) -> None:
        with self._lock:
            self._taken[principal] -= 1
            self._taken += Counter()  # whoever has none is forgotten


def _in_hosts_file(path: Path, host: str) -> list[IPAddress]:
    try:
        lines = path.read_text("ascii", errors="replace").splitlines()
    except OSError:
        return []
    found: list[IPAddress] = []
    for line in lines:
        address, *names = line.partition("#")[0].lower().split() or [""]
        if host in names:
            try:
                found.append(ip_address(address))
            except ValueError:
                continue
    return found


def _in_dns(host: str, port: int) -> list[IPAddress]:
    try:
        found = socket.getaddrinfo(f"{host}.", port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UpstreamUnreachable(
            f"{host} has no address.", reason="web.dns", hint="Check the host's name."
        ) from None
    return list(dict.fromkeys(ip_address(each[4][0]) for each in found))
