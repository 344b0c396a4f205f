"""The addresses of this host, from the kernel's own tables."""

from __future__ import annotations

import re
import time
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from sandbox_server.guards.addresses import IPAddress

_LOCAL_V4 = re.compile(r"\|-- (\d+\.\d+\.\d+\.\d+)\n\s+/32 host LOCAL")
_FRESH = 30.0


class OwnAddresses:
    """Read anew when older than 30 seconds: addresses come and go."""

    def __init__(self, proc: Path = Path("/proc/net")) -> None:
        self._proc = proc
        self._known: frozenset[IPAddress] = frozenset()
        self._read_at = float("-inf")

    def __call__(self) -> frozenset[IPAddress]:
        if time.monotonic() - self._read_at > _FRESH:
            self._known = frozenset([*self._v4(), *self._v6()])
            self._read_at = time.monotonic()
        return self._known

    def _v4(self) -> list[IPAddress]:
        return [IPv4Address(each) for each in _LOCAL_V4.findall(_text(self._proc / "fib_trie"))]

    def _v6(self) -> list[IPAddress]:
        lines = _text(self._proc / "if_inet6").splitlines()
        return [IPv6Address(int(line[:32], 16)) for line in lines if re.match("[0-9a-f]{32} ", line)]


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii", errors="replace")
    except OSError:
        return ""  # no IPv6, or not Linux's table: the deny table still stands
