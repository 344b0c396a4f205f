"""The loop over redirects: each hop is parsed, judged, resolved, checked and connected in the same way."""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import anyio
import anyio.to_thread
import structlog

from sandbox_server.access.http.content import Presenter
from sandbox_server.access.http.decoding import OFFERED
from sandbox_server.access.http.headers import USER_AGENT, check_headers, shown_headers, without
from sandbox_server.access.http.hop import Answer, Content, exchange
from sandbox_server.access.http.hops import Hop, told
from sandbox_server.access.http.models import (
    Judge,
    OnHop,
    Redirect,
    Resolver,
    Timings,
    WebRequest,
    WebResult,
)
from sandbox_server.access.http.own import OwnAddresses
from sandbox_server.access.http.rates import Rates
from sandbox_server.access.http.redirects import Outgoing, follow
from sandbox_server.access.http.wire import Meter
from sandbox_server.access.redaction import Redactor
from sandbox_server.access.secrets import Secrets
from sandbox_server.errors import Busy, PolicyDenied, SandboxServerError, UpstreamFailed
from sandbox_server.guards import addresses
from sandbox_server.guards.addresses import IPAddress
from sandbox_server.guards.urls import Url
from sandbox_server.guards.web import WebGrant

AT_ONCE = 32
"""Calls of all principals."""
MAX_ADDRESSES = 8
"""Tried of one host. All are judged."""

_SLICES = frozenset({"range", "if-range"})
"""Not sent with a secret: an echo of it that comes in parts is not seen."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Journey:
    """What one call has been through."""

    principal: str
    method: str
    """Of the first request."""
    began: float
    scope: anyio.CancelScope
    redactor: Redactor = field(default_factory=Redactor)
    dropped: list[str] = field(default_factory=list)
    """Headers of the caller's that were not sent."""
    redirects: list[Redirect] = field(default_factory=list)
    resolved: float = 0.0
    asked: float | None = None
    total: float = math.inf
    """Seconds that the caller gives it, and the rules of the hops so far."""
    at: str = ""
    """The origin of the hop that is under way."""

    values: set[str] = field(default_factory=set, repr=False)

    @property
    def shortened(self) -> float | None:
        return self.total if self.asked is not None and self.asked > self.total else None

    def hide(self, secret: str) -> None:
        if secret not in self.values:
            self.values.add(secret)
            self.redactor = Redactor(self.values)


class Client:
    """Stateless but for its counters: no connection or cookie outlives a call, so principals share none.

    `own_ports` are those that this server listens on: at this host's addresses they are refused even where
    a rule opens the address. At most `at_once` calls are under way, and `each` of one principal. `on_hop` is
    told of each hop.
    """

    def __init__(
        self,
        *,
        resolver: Resolver,
        secrets: Secrets,
        tls: ssl.SSLContext,
        own_addresses: Callable[[], Collection[IPAddress]] | None = None,
        own_ports: Callable[[], Collection[int]] = tuple,
        presenter: Presenter | None = None,
        at_once: int = AT_ONCE,
        each: int = 8,
        on_hop: OnHop = lambda record: None,
    ) -> None:
        self._resolver = resolver
        self._secrets = secrets
        self._tls = tls
        self._own_addresses = own_addresses or OwnAddresses()
        self._own_ports = own_ports
        self._presenter = presenter or Presenter()
        self._at_once = at_once
        self._each = each
        self._on_hop = on_hop
        self._under_way: dict[str, int] = {}
        self._rates = Rates()

    async def fetch(self, request: WebRequest, judge: Judge, *, principal: str) -> WebResult:
        """Raises PolicyDenied, InvalidRequest, UpstreamFailed and Busy; none of them holds a secret."""
        headers, dropped = check_headers(request.headers)
        if request.content_type:
            headers.setdefault("content-type", request.content_type)
        outgoing = Outgoing(request.method, request.url, headers, request.body)
        self._enter(principal)
        try:
            with anyio.CancelScope() as scope:
                journey = _Journey(
                    principal, request.method, anyio.current_time(), scope, dropped=list(dropped)
                )
                journey.asked = request.timeout
                if request.timeout is not None:
                    scope.deadline = journey.began + request.timeout
                try:
                    return await self._travel(outgoing, judge, journey, markdown=request.markdown)
                except SandboxServerError as error:
                    raise _ended(error, journey) from None
            late = f"No complete answer within {anyio.current_time() - journey.began:.1f} s."
            hint = f"the policy allows {journey.shortened:g} s for a request" if journey.shortened else ""
            raise _ended(UpstreamFailed(late, reason="web.timeout", hint=hint), journey)
        finally:
            self._leave(principal)

    def _enter(self, principal: str) -> None:
        mine = self._under_way.get(principal, 0)
        if mine >= self._each or sum(self._under_way.values()) >= self._at_once:
            raise Busy("Too many web requests are under way.", retry_after=1.0)
        self._under_way[principal] = mine + 1

    def _leave(self, principal: str) -> None:
        self._under_way[principal] -= 1
        if not self._under_way[principal]:
            del self._under_way[principal]

    async def _travel(self, sent: Outgoing, judge: Judge, journey: _Journey, *, markdown: bool) -> WebResult:
        while True:
            with self._told(sent, journey) as hop:
                grant = self._judged(sent, judge, journey, hop)
                checked = await self._checked(sent.url, grant, journey)
                hop.meter = Meter(grant.limits)
                async with exchange(
                    sent.method,
                    sent.url,
                    self._headers(sent, grant, journey),
                    sent.body,
                    addresses=checked,
                    limits=grant.limits,
                    tls=self._tls,
                    meter=hop.meter,
                ) as answer:
                    hop.status = answer.status
                    onward = follow(sent, answer.status, answer.header("location"))
                    if onward is None:
                        content = await answer.content()
                        return await self._result(sent, grant, answer, content, journey, markdown=markdown)
                    _log(journey, sent, grant, answer, 0)
                    _check_no_secret(journey, answer.header("location"), str(onward.url))
            if len(journey.redirects) >= grant.limits.redirects:
                raise UpstreamFailed(
                    f"More than {grant.limits.redirects} redirects; the last led to {onward.url.origin}.",
                    reason="web.redirects",
                )
            journey.redirects.append(Redirect(answer.status, str(onward.url)))
            sent = onward

    def _told(self, sent: Outgoing, journey: _Journey) -> AbstractContextManager[Hop]:
        hop = Hop(sent, journey.principal, len(journey.redirects))
        # The redactor learns of secrets on the way.
        redact, deadline = lambda text: journey.redactor.text(text), lambda: journey.scope.deadline
        return told(hop, self._on_hop, redact, deadline)

    def _judged(self, sent: Outgoing, judge: Judge, journey: _Journey, hop: Hop) -> WebGrant:
        journey.at = sent.url.origin
        size = len(sent.body or b"")
        grant = hop.granted(judge(sent.method, sent.url, size))
        if size > grant.limits.request_body:
            raise PolicyDenied(
                f"The body has {size:,} bytes; the rule takes {grant.limits.request_body:,}.", rule=grant.rule
            )
        if grant.rate is not None:
            self._rates.take(journey.principal, grant.rule, grant.rate)
        journey.total = min(journey.total, grant.limits.total)
        journey.scope.deadline = min(journey.scope.deadline, journey.began + journey.total)
        return grant

    async def _checked(self, url: Url, grant: WebGrant, journey: _Journey) -> Sequence[IPAddress]:
        """All addresses of the host, or none: one that is denied denies the host."""
        before = anyio.current_time()
        if url.address:
            found = [url.address]
        else:
            found = list(await self._resolver.resolve(url.host, url.port, journey.principal))
        journey.resolved = anyio.current_time() - before
        own = self._own_addresses()
        for address in found:
            reason = addresses.judge(address, grant.addresses, own)
            if reason is None and url.port in self._own_ports() and (address in own or address.is_loopback):
                reason = "a port of this server"
            if reason is not None:
                raise PolicyDenied(
                    f"{url.host} has the address {address}, which is {reason}.",
                    rule="floor.address",
                    hint="A rule can open networks with 'addresses', but never metadata services.",
                )
        if not found:
            raise UpstreamFailed(f"{url.host} has no address.", reason="web.dns")
        return found[:MAX_ADDRESSES]

    def _headers(self, sent: Outgoing, grant: WebGrant, journey: _Journey) -> list[tuple[str, str]]:
        """Ours first, then the caller's, then what the rule injects in place of the caller's of that name."""
        headers = {"user-agent": USER_AGENT, "accept": "*/*", **sent.headers}
        injected = {name.lower(): self._secrets.get(secret) for name, secret in grant.inject.items()}
        for value in injected.values():
            journey.hide(value)
        headers = {**without(headers, injected), **injected}
        for name in _SLICES & headers.keys() if grant.inject else ():
            del headers[name]
            journey.dropped.append(name)
        headers |= {"accept-encoding": OFFERED, "connection": "close"}
        if sent.body is not None or sent.method in ("POST", "PUT", "PATCH"):
            headers["content-length"] = str(len(sent.body or b""))
        return [("host", sent.url.authority), *headers.items()]

    async def _result(
        self,
        sent: Outgoing,
        grant: WebGrant,
        answer: Answer,
        content: Content,
        journey: _Journey,
        *,
        markdown: bool,
    ) -> WebResult:
        redactor = journey.redactor
        body = await self._presenter.present(
            content,
            answer.header("content-type"),
            redactor,
            markdown=markdown,
            shown=grant.limits.shown,
            principal=journey.principal,
        )
        _log(journey, sent, grant, answer, content.received)
        now = anyio.current_time()
        return WebResult(
            status=answer.status,
            url=redactor.text(str(sent.url)),
            headers=tuple((name, redactor.text(value)) for name, value in shown_headers(answer.headers)),
            body=body,
            redirects=tuple(Redirect(each.status, redactor.text(each.url)) for each in journey.redirects),
            rule=grant.rule,
            timings=Timings(
                resolve=journey.resolved,
                connect=answer.meter.connecting,
                first_byte=answer.meter.first_byte,
                total=now - journey.began,
            ),
            received=content.received,
            dropped=tuple(dict.fromkeys(journey.dropped)),
            shortened=journey.shortened,
        )


def _check_no_secret(journey: _Journey, *urls: str) -> None:
    """Raises PolicyDenied: URLs are shown, logged and handed on, credentials are not."""
    if any(journey.redactor.text(url) != url for url in urls):
        raise PolicyDenied(
            "The server redirects to a URL with the secret that it was sent.",
            rule="floor.secret_in_redirect",
            hint="It is not followed. Tell the operator: this server hands credentials on.",
        )


def _ended(error: SandboxServerError, journey: _Journey) -> SandboxServerError:
    """The error without the secrets of this call, logged."""
    if journey.redirects:
        error = _after_redirects(error, journey)
    redactor = journey.redactor
    error.message, error.hint = redactor.text(error.message), redactor.text(error.hint)
    error.args = (error.message,)
    cause = error.rule if isinstance(error, PolicyDenied) else getattr(error, "reason", "")
    log.info("web_refused", principal=journey.principal, origin=journey.at, code=error.code, cause=cause)
    return error


def _after_redirects(error: SandboxServerError, journey: _Journey) -> SandboxServerError:
    """The error, which must not say that nothing was done: the first request was answered."""
    done = f"The {journey.method} was sent, and redirected to {journey.at}."
    if isinstance(error, PolicyDenied):
        error.message += f" ({done})"
    elif error.retry_safe and journey.method not in ("GET", "HEAD"):
        reason = getattr(error, "reason", "") or error.code
        return UpstreamFailed(
            f"{error.message} ({done})", reason=reason, hint="It may have been carried out."
        )
    return error


def _log(journey: _Journey, sent: Outgoing, grant: WebGrant, answer: Answer, received: int) -> None:
    # Not the query: it is where credentials and personal data are put.
    log.info(
        "web_request",
        principal=journey.principal,
        method=sent.method,
        url=journey.redactor.text(sent.url.origin + sent.url.path),
        rule=grant.rule,
        status=answer.status,
        sent=len(sent.body or b""),
        received=received,
        ms=round((anyio.current_time() - journey.began) * 1000, 1),
    )
