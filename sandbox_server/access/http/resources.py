"""Resources that an operator declares: `api://NAME` is one GET, through the same client and rules."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from sandbox_server.access.http.models import Judge, WebClient, WebRequest, WebResult
from sandbox_server.access.secrets import SCHEME
from sandbox_server.errors import NotFound
from sandbox_server.guards.urls import Url
from sandbox_server.guards.web import WebGrant

_KEPT = 256
"""Answers, of all principals together; those not read longest go first."""


@dataclass(frozen=True, slots=True)
class ApiResource:
    """`ttl` in seconds is how long an answer is kept; 0: not at all. A header may be a `secret://NAME`,
    which goes to the origin of `url` alone."""

    name: str
    url: Url
    headers: Mapping[str, str] = field(default_factory=dict)
    ttl: float = 0.0


@dataclass(frozen=True, slots=True)
class _Answer:
    """Kept `until`; it was asked for by `rule`."""

    until: float
    rule: str
    result: WebResult


class ApiResources:
    """What one principal has read is never shown to another: their rules and secrets may differ."""

    def __init__(
        self, client: WebClient, declared: Iterable[ApiResource], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._declared = {each.name: each for each in declared}
        self._clock = clock
        self._kept: OrderedDict[tuple[str, str], _Answer] = OrderedDict()

    def list(self) -> tuple[ApiResource, ...]:
        return tuple(self._declared.values())

    async def read(self, name: str, judge: Judge, *, principal: str) -> WebResult:
        """Raises NotFound, and what the client raises. The rules are asked also where an answer is kept."""
        resource = self._declared.get(name)
        if resource is None:
            raise NotFound("There is no such resource.", hint="List the resources.")
        kept = self._kept.get((principal, name))
        # By another rule it may have other secrets: the roles of one who is the same can be others today.
        if (
            kept is not None
            and self._clock() < kept.until
            and judge("GET", resource.url, 0).rule == kept.rule
        ):
            self._kept.move_to_end((principal, name))
            return kept.result
        plain = {key: value for key, value in resource.headers.items() if not value.startswith(SCHEME)}
        request = WebRequest("GET", resource.url, plain)
        rules: list[str] = []
        judged = _injecting(judge, resource, rules.append)
        result = await self._client.fetch(request, judged, principal=principal)
        if resource.ttl > 0 and 200 <= result.status < 300 and not result.body.cut:
            self._kept[principal, name] = _Answer(self._clock() + resource.ttl, rules[0], result)
            self._kept.move_to_end((principal, name))
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return result


def _injecting(judge: Judge, resource: ApiResource, told: Callable[[str], None]) -> Judge:
    """`told` hears each rule."""
    secrets = {key: value for key, value in resource.headers.items() if value.startswith(SCHEME)}

    def judged(method: str, url: Url, size: int) -> WebGrant:
        grant = judge(method, url, size)
        told(grant.rule)
        if url.origin != resource.url.origin:
            return grant
        return replace(grant, inject={**grant.inject, **secrets})

    return judged
