"""Resources `api://NAME`, which the operator declares: one GET each, by the caller's rules for the web."""

from __future__ import annotations

import re
from collections.abc import Sequence

import mcp_types as types

from sandbox_server.access.http.models import WebClient, WebResult
from sandbox_server.access.http.resources import ApiResource, ApiResources
from sandbox_server.enforcement.current import Current
from sandbox_server.execution.api import Caller
from sandbox_server.guards.urls import parse_url
from sandbox_server.policy.decision import Principal, Request
from sandbox_server.policy.engine import decide
from sandbox_server.protocol.resources import Binary
from sandbox_server.protocol.web_api import WebAccess, as_text

_TYPE = re.compile(r"[a-z0-9.+-]{1,60}/[a-z0-9.+-]{1,60}")


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

    async def read(self, uri: str, *, caller: Caller) -> str | Binary:
        """Raises errors of ours."""
        name = uri.removeprefix(self.scheme)
        judge = self._web.judge_for(caller)
        result = await self._now(self._web.client).read(name, judge, principal=caller.principal)
        if result.body.base64 is None:
            return as_text(result)
        return Binary(result.body.base64, _type_of(result), as_text(result))

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


def _type_of(result: WebResult) -> str:
    """What the server calls it, if that is a type at all."""
    said = next((value for name, value in result.headers if name == "content-type"), "")
    kind = said.partition(";")[0].strip().lower()
    return kind if _TYPE.fullmatch(kind) else "application/octet-stream"
