"""A name server in a network of its own, and a whole server that asks it by the system's own resolver.

    unshare --mount --net python -m tests.access.dns DIRECTORY

writes down what became of each item. Nothing leaves the network namespace: it has a loopback and no more,
which also holds a "public" address of this host. Needs root.
"""

from __future__ import annotations

import fcntl
import json
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import anyio

from tests.access.doors import Program, program_of
from tests.access.http.lab import answer, serve
from tests.access.whole import Whole, whole

A, CNAME, AAAA = 1, 5, 28
LONGEST = 0x7FFFFFFF
PUBLIC = "203.0.114.7"
"""An address of the Internet that this host has in here."""
VICTIM = "victim.example.test"
Record = tuple[str, int, int, str]
"""Owner, type, time to live, data."""

POLICY = """
roles:
  basic:
    tools: {allow: [web_api, code_execution]}
    web:
      allow: [{hosts: ["*.example.test"], schemes: [http], ports: [PORT], addresses: ["127.0.0.0/8"]}]
      limits: {connect: 1s, total: 8s}
    code: {egress: site, languages: {python: {}}}
egress:
  profiles:
    site: {allow: [{hosts: ["*.example.test:PORT"], addresses: ["127.0.0.0/8"]}]}
deployment: {warm: 0}
"""


class NameServer:
    """Answers by what `zone` says for a name, in turn; names that it does not have do not exist."""

    def __init__(self, zone: dict[str, list[list[Record]]]) -> None:
        self.zone = zone
        self.asked: Counter[str] = Counter()
        self._turn: Counter[tuple[str, int]] = Counter()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            query, peer = self.socket.recvfrom(4096)
            reply = self._reply(query)
            if reply:
                self.socket.sendto(reply, peer)

    def _reply(self, query: bytes) -> bytes | None:
        name, end = _name(query, 12)
        (kind,) = struct.unpack_from(">H", query, end)
        self.asked[name] += 1
        if name.startswith("hang."):
            return None
        turns = self.zone.get(name)
        turn = self._turn[name, kind]
        self._turn[name, kind] += 1
        records = turns[min(turn, len(turns) - 1)] if turns else []
        answers = [each for each in records if each[1] in (kind, CNAME)]
        more = [(VICTIM, A, LONGEST, "10.0.0.1")] if name.startswith("poisoned-") else []
        flags = 0x8580 | (0 if turns else 3)
        head = query[:2] + struct.pack(">HHHHH", flags, 1, len(answers), 0, len(more))
        return head + query[12 : end + 4] + b"".join(map(_written, [*answers, *more]))


def _name(message: bytes, at: int) -> tuple[str, int]:
    labels = []
    while length := message[at]:
        labels.append(message[at + 1 : at + 1 + length].decode().lower())
        at += 1 + length
    return ".".join(labels), at + 1


def _wire(name: str) -> bytes:
    return b"".join(bytes([len(each)]) + each.encode() for each in name.split(".")) + b"\0"


def _written(record: Record) -> bytes:
    owner, kind, ttl, data = record
    content = _wire(data) if kind == CNAME else ip_address(data).packed
    return _wire(owner) + struct.pack(">HHIH", kind, 1, ttl, len(content)) + content


def own_network(directory: Path) -> None:
    """Loopback up, with a public address; the system's resolver asks 127.0.0.1, and knows a search domain."""
    with socket.socket() as link:
        fcntl.ioctl(link, 0x8914, struct.pack("16sH22x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up, running
        public = struct.pack("16sHH4s16x", b"lo:1", socket.AF_INET, 0, ip_address(PUBLIC).packed)
        fcntl.ioctl(link, 0x8916, public)  # SIOCSIFADDR
    files = {
        "/etc/resolv.conf": "nameserver 127.0.0.1\nsearch evil.test\noptions ndots:9 attempts:1 timeout:5\n",
        "/etc/nsswitch.conf": "hosts: files dns\n",
        "/etc/hosts": "127.0.0.1 localhost\n",
    }
    for path, text in files.items():
        if Path(path).exists():
            mine = directory / Path(path).name
            mine.write_text(text)
            subprocess.run(["mount", "--bind", mine, path], check=True)


ITEMS: dict[str, Callable[[str], list[list[Record]]]] = {
    # A rebinding name: first where the rule lets it, then inside. Each is asked for once a call.
    "rebinding": lambda name: [[(name, A, 0, "127.0.0.1")], [(name, A, 0, "10.0.0.1")]],
    "mixed A records": lambda name: [[(name, A, 60, "127.0.0.1"), (name, A, 60, "10.0.0.1")]],
    "CNAME chain": lambda name: [
        [
            (name, CNAME, 60, "one.example.test"),
            ("one.example.test", CNAME, 60, "two.example.org"),
            ("two.example.org", A, 60, "10.0.0.5"),
        ]
    ],
    "CNAME to metadata": lambda name: [
        [
            (name, CNAME, 60, "metadata.google.internal"),
            ("metadata.google.internal", A, 60, "169.254.169.254"),
        ]
    ],
    "AAAA private and A public": lambda name: [[(name, A, 60, "9.9.9.9"), (name, AAAA, 60, "fd00::1")]],
    "A private and AAAA public": lambda name: [[(name, A, 60, "10.0.0.1"), (name, AAAA, 60, "2606:4700::1")]],
    # First a lie that wants to be remembered for 68 years, then the truth; and the other way round.
    "long TTL of a lie": lambda name: [[(name, A, LONGEST, "10.0.0.1")], [(name, A, 60, "127.0.0.1")]],
    "long TTL of the truth": lambda name: [[(name, A, LONGEST, "127.0.0.1")], [(name, A, 60, "10.0.0.1")]],
    # Along with its answer comes one that nobody asked for.
    "poisoned neighbour": lambda name: [[(name, A, 60, "127.0.0.1")]],
    "own public address": lambda name: [[(name, A, 60, PUBLIC)]],
}


def host_of(item: str) -> str:
    return item.lower().replace(" ", "-") + ".example.test"


@contextmanager
def name_server() -> Iterator[NameServer]:
    zone = {host_of(item): records(host_of(item)) for item, records in ITEMS.items()}
    zone[VICTIM] = [[(VICTIM, A, 60, "127.0.0.1")]]
    zone["only.example.test.evil.test"] = [[("only.example.test.evil.test", A, 60, "127.0.0.1")]]
    server = NameServer(zone)
    yield server
    server.socket.close()


async def ask(server: Whole, program: Program, host: str, port: int) -> list[str]:
    """What `web_api` says, two calls long, and then what the proxy does."""
    said = []
    for _ in range(2):
        told = await server.web(f"http://{host}:{port}/")
        said.append(str(told.get("status") or told["message"]))
    head = f"GET http://{host}:{port}/ HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
    for _ in range(2):
        said.append((await program.say(head.encode())).split()[1].decode())
    return said


async def main(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with name_server() as names:
        async with serve(answer(), host="0.0.0.0") as site:
            policy = POLICY.replace("PORT", str(site.port))
            async with whole(directory, policy, None) as server, program_of(server, "site") as program:
                for item in (*ITEMS, "victim", "only"):
                    before, touched = names.asked[host_of(item)], site.connections
                    said = await ask(server, program, host_of(item), site.port)
                    asked = names.asked[host_of(item)] - before
                    found[item] = {"said": said, "asked": asked, "connections": site.connections - touched}
                began = anyio.current_time()
                told = await server.web(f"http://hang.example.test:{site.port}/")
                found["hang"] = {"reason": told["reason"], "seconds": anyio.current_time() - began}
    found["searched"] = [name for name in names.asked if name.endswith("evil.test")]
    return found


if __name__ == "__main__":
    where = Path(sys.argv[1])
    own_network(where)
    result = anyio.run(main, where)
    Path(where, "found.json").write_text(json.dumps(result))
