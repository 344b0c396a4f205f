"""The system's resolver, asked in threads of its own and never through a search domain."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import anyio
import anyio.to_thread

from sandbox_server.errors import Busy, UpstreamUnreachable
from sandbox_server.guards.addresses import IPAddress


class SystemResolver:
    """/etc/hosts first, then DNS for exactly the name that was judged: with a final dot, without which a
    search domain could answer for it.
    """

    def __init__(self, *, timeout: float = 5.0, lookups: int = 32, hosts: Path = Path("/etc/hosts")) -> None:
        self._timeout = timeout
        self._limiter = anyio.CapacityLimiter(lookups)
        self._slots = threading.BoundedSemaphore(lookups)
        self._hosts = hosts

    async def resolve(self, host: str, port: int) -> Sequence[IPAddress]:
        # A lookup that we gave up goes on in its thread, and only its own end makes room for another.
        if not self._slots.acquire(blocking=False):
            raise Busy("Too many names are being looked up.", retry_after=self._timeout)
        owner: dict[str, str] = {}

        def look_up() -> Sequence[IPAddress]:
            if owner.setdefault("slot", "thread") != "thread":
                return []
            try:
                return _in_hosts_file(self._hosts, host) or _in_dns(host, port)
            finally:
                self._slots.release()

        try:
            with anyio.fail_after(self._timeout):
                return await anyio.to_thread.run_sync(look_up, abandon_on_cancel=True, limiter=self._limiter)
        except TimeoutError:
            raise UpstreamUnreachable(
                f"{host} was not resolved within {self._timeout:g} s.", reason="web.dns"
            ) from None
        finally:
            if owner.setdefault("slot", "loop") == "loop":
                self._slots.release()


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
