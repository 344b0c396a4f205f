"""Resources `api://NAME`, which the operator declares: one GET each, by the caller's rules for the web."""

from __future__ import annotations

from collections.abc import Sequence

import mcp_types as types

from sandbox_server.access.http.models import WebClient
from sandbox_server.access.http.resources import ApiResource, ApiResources
from sandbox_server.enforcement.current import Current
from sandbox_server.execution.api import Caller
from sandbox_server.guards.urls import parse_url
from sandbox_server.policy.decision import Principal, Request
from sandbox_server.policy.engine import decide
from sandbox_server.protocol.web_api import WebAccess, as_text


class ApiProvider:
    """Those of the policy that holds now."""

    scheme = "api://"
    templates: tuple[types.ResourceTemplate, ...] = ()
    mime_type = "text/plain"

    def __init__(self, web: WebAccess, current: Current) -> None:
        self._web = web
        self._current = current
        self._revision = ""
        self._resources = ApiResources(web.client, ())

    def list(self, *, caller: Caller) -> list[types.Resource]:
        return [
            types.Resource(uri=f"api://{name}", name=name, mime_type=self.mime_type)
            for name in self._current.policy.compiled.apis
            if self._granted(name, caller)
        ]

    async def read(self, uri: str, *, caller: Caller) -> str:
        """Raises errors of ours."""
        name = uri.removeprefix(self.scheme)
        judge = self._web.judge_for(caller)
        return as_text(await self._now(self._web.client).read(name, judge, principal=caller.principal))

    def complete(self, argument: str, value: str, *, caller: Caller) -> Sequence[str]:
        return ()

    def _granted(self, name: str, caller: Caller) -> bool:
        who = caller.who if isinstance(caller.who, Principal) else Principal()
        request = Request("resource", {"uri": f"api://{name}"})
        return decide(self._current.policy, who, request).effect != "deny"

    def _now(self, client: WebClient) -> ApiResources:
        """What is kept of answers goes with the policy under which it was given."""
        policy = self._current.policy
        if policy.revision != self._revision:
            declared = [
                ApiResource(each.name, parse_url(each.url), each.headers, each.ttl)
                for each in policy.compiled.apis.values()
            ]
            self._resources, self._revision = ApiResources(client, declared), policy.revision
        return self._resources
