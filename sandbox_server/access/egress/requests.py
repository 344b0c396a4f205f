"""Plain HTTP: one request at a time, each judged, taken apart and put together anew.

Nothing is passed through as it came, so there is one reading of where a request ends. Each gets a connection
of its own to the server: no answer can be taken for another's.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import h11
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from sandbox_server.access.egress import headers as heads
from sandbox_server.access.egress.answers import refusal, unquoted
from sandbox_server.access.egress.cache import PLAIN_HEADERS, CacheWriter, FileCache, KeptFile, cacheable
from sandbox_server.access.egress.connection import HEAD_SECONDS, Connection, Story
from sandbox_server.access.egress.models import Connect, Refused, Scheme
from sandbox_server.access.egress.streams import CHUNK, flat
from sandbox_server.access.redaction import StreamRedactor
from sandbox_server.guards.urls import Url, UrlRefused, parse_url
from sandbox_server.guards.web import EgressGrant

MAX_HEAD = 64 * 1024
MOST_INTERIM = 8
TLS_SECONDS = 10.0
_SCOPED = re.compile(
    r"^((?:http://[^/?#@]+)?/(?:[^?#]*/)?@[a-z0-9~-][a-z0-9._~-]*)%2f(?=[a-z0-9~-][a-z0-9._~-]*(?:\?|$))",
    re.IGNORECASE,
)
"""How npm asks for a package of a scope. Judged and sent is what it means, with a slash."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a tunnel leads, in which requests come without a host of their own."""

    scheme: Scheme
    host: str
    port: int


class Exchange:
    """The requests of one stream. Without a `target` they are a proxy's, in absolute form, or CONNECT."""

    def __init__(self, connection: Connection, stream: ByteStream, target: Target | None = None) -> None:
        self._connection = connection
        self._stream = stream
        self._target = target
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)

    async def serve(self) -> h11.Request | None:
        """Until the stream ends, or a request is CONNECT, which is returned unanswered."""
        first = True
        while True:
            request = await self._next()
            if request is None:
                return None
            if not first:
                await self._connection.wait_its_turn()
            first = False
            if request.method == b"CONNECT" and self._target is None:
                return request
            with self._connection.told("http") as story:
                await self._one(request, story)
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return None
            self._http.start_next_cycle()

    async def _next(self) -> h11.Request | None:
        """The head of the next request, or None at the end. A broken one is answered and reported."""
        try:
            first = True
            with anyio.fail_after(self._connection.limits.idle) as scope:
                while (event := self._http.next_event()) is h11.NEED_DATA:
                    await self._receive()
                    if first:
                        # Nothing may come for a while; what has begun must come at once.
                        first = False
                        scope.deadline = anyio.current_time() + HEAD_SECONDS
        except (h11.RemoteProtocolError, TimeoutError) as error:
            late = isinstance(error, TimeoutError)
            if late and first:
                return None
            status = 408 if late else getattr(error, "error_status_hint", 400)
            what = "the request's head did not come in time"
            if isinstance(error, h11.ProtocolError):
                what = f"a broken request: {unquoted(error)}"
            with self._connection.told("http") as story:
                refused = Refused(what, rule="floor.http", status=status)
                await self.refuse(refused, story)
                raise refused from None
        return event if isinstance(event, h11.Request) else None

    async def _receive(self) -> None:
        try:
            self._http.receive_data(await self._stream.receive(CHUNK))
        except anyio.EndOfStream:
            self._http.receive_data(b"")

    # --- one request

    async def _one(self, request: h11.Request, story: Story) -> None:
        try:
            url = self._url(request)
            if request.http_version not in (b"1.0", b"1.1"):
                raise Refused("only HTTP/1.1 and HTTP/1.0 are taken", status=505)
            heads.check_framing(list(request.headers))
            if heads.wants_upgrade(list(request.headers)):
                raise Refused(
                    "a request that is read here is not upgraded (WebSocket)",
                    rule="floor.http",
                    hint="use a tunnel: wss://, or CONNECT"
                    if url.scheme == "http"
                    else "the operator can allow this host by a rule without 'terminate'",
                )
            heads.check_meaning(list(request.headers))
            connect = Connect(
                self._connection.access.profile,
                url.host,
                url.port,
                url.scheme,
                request.method.decode("ascii"),
                url.path,
            )
            grant = self._connection.judge(connect)
            if grant.terminate and grant.inject and url.scheme == "http":
                raise Refused(
                    "this rule's secret goes through TLS alone",
                    rule="floor.cleartext",
                    hint=f"use https://{url.host}",
                )
            inject = self._injected(grant)
            cache = self._connection.gateway.cache if grant.cache else None
            if cache is not None and cacheable(request, url, inject):
                await self._kept(cache, request, url, grant, story)
                return
            async with self._server(url, grant) as server:
                await _Forward(self, server, StreamRedactor(inject.values())).run(request, url, inject)
        except Refused as refused:
            await self.refuse(refused, story)
            raise

    async def _kept(
        self, cache: FileCache, request: h11.Request, url: Url, grant: EgressGrant, story: Story
    ) -> None:
        """A file that never changes: from our store, or from its server and into it."""
        # What came from a network that a rule opens is not for those who have none that does.
        name = " ".join((str(url), *sorted(map(str, grant.addresses))))
        if (file := await cache.open(name)) is not None:
            story.cached = True
            self._connection.client.count_cached()
            async with file:
                await self._serve_file(file)
            return
        async with self._server(url, grant) as server, cache.writer(name) as writer:
            # Ours, not the program's: what is kept must not depend on what a program has said.
            plain = h11.Request(method=request.method, target=request.target, headers=PLAIN_HEADERS)
            await _Forward(self, server, StreamRedactor(()), writer).run(plain, url, {})

    async def _serve_file(self, file: KeptFile) -> None:
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", str(file.size).encode()),
        ]
        await self.send(h11.Response(status_code=200, headers=headers))
        while data := await file.read(CHUNK):
            await self.send(h11.Data(data=data))
        await self.send(h11.EndOfMessage())

    def _url(self, request: h11.Request) -> Url:
        """Where the request goes, by one strict parser. Raises Refused."""
        target = _SCOPED.sub(r"\1/", request.target.decode("ascii", errors="replace"))
        hosts = heads.values(request.headers, b"host")
        try:
            if self._target is None:
                if "://" not in target:
                    raise Refused("this is a proxy: requests name the whole URL", status=400)
                url = parse_url(target)
                if url.scheme != "http":
                    raise Refused("https goes through CONNECT", status=400)
            else:
                if request.method == b"CONNECT" or not target.startswith("/"):
                    raise Refused("in a tunnel a request names the path alone", status=400)
                where = self._target
                url = parse_url(f"{where.scheme}://{where.host}:{where.port}{target}")
            if hosts:
                said = parse_url(f"{url.scheme}://{hosts[0].decode('ascii', errors='replace')}/")
                if (said.host, said.port, said.path, said.query) != (url.host, url.port, "/", ""):
                    raise Refused(
                        "the Host header names another host than the request", rule="floor.http", status=400
                    )
        except UrlRefused as error:
            raise Refused(str(error), rule=f"floor.{error.reason}") from None
        return url

    def _injected(self, grant: EgressGrant) -> dict[str, str]:
        try:
            found = {name: self._connection.gateway.secrets(secret) for name, secret in grant.inject.items()}
            for value in found.values():
                value.encode("latin-1")
        except Exception:
            # Whatever it was: without its secret the request is another one, and the error may hold it.
            raise Refused(
                "a secret of this rule is not there", rule=grant.rule, hint="tell the operator", status=502
            ) from None
        return found

    @asynccontextmanager
    async def _server(self, url: Url, grant: EgressGrant) -> AsyncIterator[ByteStream]:
        """A connection of this request's own. Raises Refused."""
        stream = await self._connection.dial(url.host, url.port, grant)
        try:
            if url.scheme == "https":
                stream = await self._verified(stream, url.host)
            yield stream
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                await stream.aclose()

    async def _verified(self, stream: ByteStream, host: str) -> ByteStream:
        try:
            with anyio.fail_after(TLS_SECONDS):
                return await TLSStream.wrap(
                    stream,
                    hostname=host.strip("[]"),
                    ssl_context=self._connection.gateway.tls,
                    standard_compatible=False,
                )
        except (OSError, TimeoutError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            why = getattr(error, "verify_message", "") or type(error).__name__
            with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                await stream.aclose()
            raise Refused(f"TLS with {host} failed: {why}", status=502, verdict="failed") from None

    # --- what `_Forward` uses

    async def send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            await self._stream.send(data)

    async def body(self) -> AsyncIterator[bytes]:
        """Of the request; asks for it if the program waits to be asked."""
        if self._http.they_are_waiting_for_100_continue:
            await self.send(h11.InformationalResponse(status_code=100, headers=[]))
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                await self._receive()
            elif isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return
            else:
                raise anyio.BrokenResourceError

    @property
    def answered(self) -> bool:
        return self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE)

    # --- answers of our own

    async def accept_connect(self) -> bytes:
        """Say yes to CONNECT. Returns what came after its head."""
        await self.send(h11.Response(status_code=200, headers=[], reason=b"Connection established"))
        return self._http.trailing_data[0]

    async def decline(self, refused: Refused, story: Story) -> None:
        """Refuse the first request, whatever it is."""
        if await self._next() is not None:
            await self.refuse(refused, story)

    async def refuse(self, refused: Refused, story: Story) -> None:
        """Tell the program, if it has not been told anything else."""
        story.refused(refused)
        if self.answered:
            return
        self._connection.client.answering = True
        response, content = refusal(refused, story.host, story.port)
        try:
            await self.send(response)
            await self.send(h11.Data(data=content))
            await self.send(h11.EndOfMessage())
        except h11.LocalProtocolError:
            pass  # the answer to HEAD has no body; a broken request may leave nobody to answer


class _Forward:
    """One request to one server, and its answer."""

    def __init__(
        self, exchange: Exchange, server: ByteStream, mask: StreamRedactor, writer: CacheWriter | None = None
    ) -> None:
        self._writer = writer
        self._exchange = exchange
        self._server = server
        self._mask = mask
        self._endless = False
        """The body ends with the connection."""
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)

    async def run(self, request: h11.Request, url: Url, inject: dict[str, str]) -> None:
        headers = heads.outgoing(list(request.headers), url.authority, inject)
        await self._send(h11.Request(method=request.method, target=url.target, headers=headers))
        with flat():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._upload)
                await self._answer()
                tasks.cancel_scope.cancel()

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            await self._server.send(data)

    async def _upload(self) -> None:
        try:
            async for data in self._exchange.body():
                await self._send(h11.Data(data=data))
            await self._send(h11.EndOfMessage())
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # the server takes no more: its answer, if there is one, says why

    async def _answer(self) -> None:
        interim = 0
        while True:
            event = await self._event()
            if isinstance(event, h11.Response):
                self._check(event)
                if self._writer:
                    await self._writer.begin(event.status_code, list(event.headers))
                await self._exchange.send(
                    h11.Response(
                        status_code=event.status_code,
                        headers=heads.incoming(list(event.headers), self._mask),
                        reason=self._mask.whole(bytes(event.reason)),
                    )
                )
            elif isinstance(event, h11.InformationalResponse):
                interim += 1
                if interim > MOST_INTERIM:
                    raise _broken("too many interim responses")
            elif isinstance(event, h11.Data):
                if self._writer:
                    await self._writer.write(bytes(event.data))
                await self._pass(self._mask.feed(bytes(event.data)))
            else:
                if self._writer:
                    await self._writer.finish()
                await self._pass(self._mask.end(cut=self._endless))
                await self._exchange.send(h11.EndOfMessage())
                return

    def _check(self, response: h11.Response) -> None:
        if sum(len(name) + len(value) + 4 for name, value in response.headers) > MAX_HEAD:
            raise _broken("its head is too long")
        self._endless = not any(
            heads.values(response.headers, name) for name in (b"content-length", b"transfer-encoding")
        )
        codings = heads.values(response.headers, b"content-encoding")
        if self._mask and codings not in ([], [b"identity"]):
            raise _broken("the answer is compressed although that was not asked for")

    async def _pass(self, data: bytes) -> None:
        if data:
            await self._exchange.send(h11.Data(data=data))

    async def _event(self) -> h11.Event:
        """The next thing that the server says. Raises Refused if that makes no sense."""
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                try:
                    self._http.receive_data(await self._server.receive(CHUNK))
                except anyio.EndOfStream:
                    self._http.receive_data(b"")
        except h11.RemoteProtocolError as error:
            raise _broken(unquoted(error)) from None
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise _broken("it closed the connection") from None
        if isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
            raise _broken("it closed the connection without an answer")
        assert isinstance(event, h11.Event)
        return event


def _broken(what: str) -> Refused:
    return Refused(f"the server's answer is broken: {what}", status=502, verdict="failed")
