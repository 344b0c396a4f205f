# ruff: noqa: E501 - a program in a string keeps its own lines
"""A server with real sandboxes whose programs may go out to a site and an echo on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute

from tests.access.egress.world import echo
from tests.access.http.lab import Script, Seen, Server, answer, serve
from tests.access.whole import Whole, Zone, until, whole

SITE, ECHO, PLAIN = "site.example.com", "echo.example.com", "plain.example.com"
POLICY = """
roles:
  basic:
    tools: {allow: [code_execution]}
    code:
      egress: site
      defaults: {wall: 20s}
      languages: {python: {}, bash: {image: python}}
egress:
  profiles:
    site:
      allow:
        - {hosts: ["site.example.com:SITE"], methods: [GET, POST], paths: ["/open/**"], addresses: ["127.0.0.1/32"]}
        - {hosts: ["echo.example.com:ECHO"], opaque: true, addresses: ["127.0.0.1/32"]}
        - {hosts: ["plain.example.com:ECHO"], addresses: ["127.0.0.1/32"]}
        - {hosts: ["free.example.com:SITE"], addresses: ["127.0.0.1/32"]}
        - {hosts: ["inner.example.com:80", "inner.example.com:443"]}
MORE
deployment: {warm: 0, sandboxes: 4}
"""
PRELUDE = """
import os, socket, sys, time, urllib.error, urllib.request
from urllib.parse import urlsplit
SITE, ECHO, CANARY = {site}, {echo}, {canary}
def proxy():
    return urlsplit(os.environ["HTTP_PROXY"]).hostname, urlsplit(os.environ["HTTP_PROXY"]).port
def fetch(url, data=None, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode().strip()
    except OSError as error:
        return "error", str(error)
def talk(*pieces):
    said = b""
    with socket.create_connection(proxy(), timeout=10) as s:
        for piece in pieces:
            s.sendall(piece)
            said += s.recv(65536)
        while more := s.recv(65536):
            said += more
    return said
def status(said):
    return said.split(b" ")[1].decode() if said else "closed"
def door(host, port):
    with socket.create_connection(proxy(), timeout=10) as s:
        s.sendall(connect(host, port))
        return status(s.recv(65536))
def connect(host, port, *lines):
    return b"\\r\\n".join([b"CONNECT %b:%d HTTP/1.1" % (host, port), *(lines or [b"Host: %b:%d" % (host, port)]), b"", b""])
def tunnel(host=b"echo.example.com"):
    s = socket.create_connection(proxy(), timeout=20)
    s.sendall(connect(host, ECHO))
    assert b" 200 " in s.recv(1000)
    return s
"""


@dataclass
class Echo:
    """A server that says back what it hears. `connections` are those that it had."""

    port: int = 0
    connections: int = 0
    heard: list[bytes] = field(default_factory=list)

    async def serve(self, stream: ByteStream) -> None:
        self.connections += 1
        async with stream:
            try:
                await echo(stream)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return


@dataclass
class Here:
    server: Whole
    zone: Zone
    site: Server
    echo: Echo
    script: Script

    def policy(self, more: str = "") -> str:
        found = POLICY.replace(":SITE", f":{self.site.port}").replace(":ECHO", f":{self.echo.port}")
        return found.replace("MORE", more)

    async def run(self, code: str, language: str = "python", **arguments: Any) -> list[str]:
        """What a program says, line by line."""
        if language == "python":
            code = PRELUDE.format(site=self.site.port, echo=self.echo.port, canary=0) + code
        told = await self.server.call("code_execution", code=code, language=language, **arguments)
        assert told.get("outcome") == "ok", told
        lines: list[str] = told["stdout"].splitlines()
        return lines

    @property
    def tunnels(self) -> int:
        return self.server.enforced.outside.gateway.connections


@asynccontextmanager
async def open_way_out(directory: Path) -> AsyncIterator[Here]:
    """A server with sandboxes, a site and an echo, for the tests of one file."""
    zone, echoing = Zone(), Echo()

    async def script(seen: Seen, stream: ByteStream) -> None:
        await here.script(seen, stream)

    listener: Any = await anyio.create_tcp_listener(local_host="127.0.0.1")
    echoing.port = listener.extra(SocketAttribute.local_port)
    async with serve(script) as site, listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, echoing.serve)
        first = Here(None, zone, site, echoing, answer())  # type: ignore[arg-type]
        async with whole(directory, first.policy(), zone, docker=True, era="2026-07-28") as server:
            here = Here(server, zone, site, echoing, answer())
            yield here
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def fresh(here: Here) -> AsyncIterator[Here]:
    """Names are at this host, the policy is the first one, and nothing of the test before is left."""
    here.zone.clear()
    here.zone.others = ["127.0.0.1"]
    here.site.seen.clear()
    here.echo.connections = here.site.connections = 0
    here.script = answer()
    yield here
    await until(lambda: here.tunnels == 0)
    assert await here.server.rewrite(here.policy())
