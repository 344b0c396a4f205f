"""One connection of a program: which protocol it speaks, what is asked and judged, and the report of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import anyio
import h11
from anyio.abc import ByteStream

from sandbox_server.access.egress.models import (
    Connect,
    ConnectionRecord,
    Kind,
    Refused,
    Verdict,
)
from sandbox_server.access.egress.streams import CapReached, Client
from sandbox_server.errors import ConfigError, PolicyDenied
from sandbox_server.execution.egress import EgressAccess
from sandbox_server.guards.addresses import IPAddress
from sandbox_server.guards.web import EgressGrant, EgressLimits

if TYPE_CHECKING:
    from sandbox_server.access.egress.gateway import Gateway

HEAD_SECONDS = 10.0
"""For a program to say what it wants: a request's head, a greeting, a ClientHello."""


@dataclass
class Story:
    """What becomes of one tunnel or request, for its record."""

    scheme: str = ""
    host: str = ""
    port: int = 0
    method: str | None = None
    rule: str = ""
    verdict: Verdict = "failed"
    reason: str = ""
    address: str = ""
    cached: bool = False
    kind: Kind = "none"
    pattern: str = ""

    def refused(self, why: Refused) -> None:
        """Before the program is told: it may never wait for that, and must not choose what is recorded."""
        self.verdict, self.reason = why.verdict, why.message
        self.rule = why.rule if why.verdict == "denied" else self.rule


class Connection:
    """State of one connection. `current` is what was last allowed, for judging again when rules change."""

    def __init__(self, gateway: Gateway, access: EgressAccess, client: Client, limits: EgressLimits) -> None:
        self.gateway = gateway
        self.access = access
        self.client = client
        self.limits = limits
        self.scope = anyio.CancelScope()
        self.current: tuple[Connect, EgressGrant] | None = None
        self.address: IPAddress | None = None
        self.story: Story | None = None
        self._ended_for = ""
        self._reported = False
        self._began = time.monotonic()
        self._reported_out = 0
        self._reported_in = 0

    # --- judging

    def judge(self, connect: Connect) -> EgressGrant:
        """Raises Refused. An error while deciding is a denial."""
        if self.client.used_up:
            raise Refused(
                f"this sandbox has used up its {self.client.used_up}",
                rule=f"limit.{self.client.used_up}",
                hint="ask the operator for more, or use another sandbox",
            )
        if self.story is not None:
            self.story.scheme, self.story.host, self.story.port = connect.scheme, connect.host, connect.port
            self.story.method = connect.method
        connect = replace(connect, principal=self.access.principal, who=self.access.who)
        grant = self.gateway.decide(connect)
        if self.story is not None:
            self.story.rule, self.story.verdict, self.story.pattern = grant.rule, "allowed", grant.host
        self.current = (connect, grant)
        self.client.granted = True
        return grant

    async def wait_its_turn(self) -> None:
        """Before a connection, and each request in it but the first."""
        await self.gateway.pace.wait(self.access, self.limits)

    async def dial(self, host: str, port: int, grant: EgressGrant) -> ByteStream:
        """Raises Refused."""
        stream, self.address = await self.gateway.dialler.connect(host, port, grant, self.access.principal)
        if self.story is not None:
            self.story.address = str(self.address)
        return stream

    def is_still_allowed(self) -> bool:
        """By the rules and limits as they are now."""
        if self._has_too_much():
            return False
        if self.current is None:
            return True
        connect, before = self.current
        try:
            grant = self.gateway.decide(connect)
        except Refused:
            return False
        if (grant.opaque, grant.terminate) != (before.opaque, before.terminate):
            return False
        return self.address is None or self.gateway.dialler.check(self.address, connect.port, grant) is None

    def _has_too_much(self) -> bool:
        """It keeps the limits that it began with."""
        try:
            now = self.gateway.limits(self.access.profile)
        except ConfigError:
            return True
        lasting = (each.name for each in fields(now) if each.name not in ("rate", "burst"))
        return any(getattr(now, name) < getattr(self.limits, name) for name in lasting)

    # --- telling

    @contextmanager
    def told(self, kind: Kind = "none") -> Iterator[Story]:
        """Reports what becomes of one tunnel or request when it ends, however it does."""
        outer = (self.current, self.address, self.story)
        story = self.story = Story(kind=kind)
        begin = time.monotonic()
        try:
            yield story
        except Refused as refused:
            if refused.told:
                story.reason = "a request in it was refused"
            else:
                story.refused(refused)
            refused.told = True
            raise
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            story.reason = story.reason or "the connection was closed"
            raise
        except (h11.ProtocolError, OSError):
            story.reason = story.reason or "what came broke off or was no HTTP"
            raise
        except CapReached as reached:
            story.reason = story.reason or f"limit: {reached}"
            raise
        except anyio.get_cancelled_exc_class():
            story.reason = story.reason or self._ended_for or "the run ended"
            raise
        finally:
            self.current, self.address, self.story = outer
            self._reported = True
            self.gateway.report(self._record(story, time.monotonic() - begin))

    def last_words(self) -> None:
        """At the end: reports what is in no record yet, which is all of a connection that asked for nothing
        and what came after the last request."""
        counted = self._reported_out + self._reported_in
        if not self._reported or self.client.bytes_out + self.client.bytes_in > counted:
            nothing = "nothing more was asked for" if self._reported else "nothing was asked for"
            story = Story(reason=self._ended_for or nothing)
            self.gateway.report(self._record(story, time.monotonic() - self._began))

    def _record(self, story: Story, seconds: float) -> ConnectionRecord:
        """Each byte is in one record: those of a request in a tunnel are not in the tunnel's."""
        out, into = self.client.bytes_out - self._reported_out, self.client.bytes_in - self._reported_in
        self._reported_out, self._reported_in = self.client.bytes_out, self.client.bytes_in
        return ConnectionRecord(
            principal=self.access.principal,
            profile=self.access.profile,
            scheme=story.scheme,
            host=story.host,
            port=story.port,
            method=story.method,
            rule=story.rule,
            verdict=story.verdict,
            reason=story.reason,
            address=story.address,
            bytes_out=out,
            bytes_in=into,
            seconds=seconds,
            who=self.access.who,
            cached=story.cached,
            kind=story.kind,
            pattern=story.pattern,
        )

    # --- time

    def end(self, why: str) -> None:
        """Close it from outside."""
        self._ended_for = self._ended_for or why
        self.scope.cancel()

    async def watch(self) -> None:
        """Ends it when nothing has moved for too long, or after all its time."""
        until = time.monotonic() + self.limits.total
        while True:
            now = time.monotonic()
            quiet = self.client.moved + self.limits.idle
            if now >= until or now >= quiet:
                self.end("limit: total" if now >= until else "limit: idle")
                return
            await anyio.sleep(max(0.005, min(until, quiet, now + 3600.0) - now))


@contextmanager
def in_time() -> Iterator[None]:
    """Raises Refused if the program does not say what it wants in time."""
    try:
        with anyio.fail_after(HEAD_SECONDS):
            yield
    except TimeoutError:
        raise Refused(
            f"nothing complete was asked for within {HEAD_SECONDS:g} seconds", status=408, verdict="failed"
        ) from None


def denied(error: PolicyDenied) -> Refused:
    return Refused(error.message, rule=error.rule, hint=error.hint)
