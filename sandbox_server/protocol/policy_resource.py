"""The resource `policy://me`: what the caller may do, for whoever wants to know before trying."""

from __future__ import annotations

import json
from collections.abc import Sequence

import mcp_types as types

from sandbox_server.enforcement.current import Current
from sandbox_server.errors import NotFound
from sandbox_server.execution.api import Caller
from sandbox_server.policy.views import effective_view
from sandbox_server.protocol.text import visible

URI = "policy://me"


class PolicyResource:
    """A provider of one resource."""

    scheme = "policy://"
    templates: tuple[types.ResourceTemplate, ...] = ()
    mime_type = "application/json"

    def __init__(self, current: Current) -> None:
        self._current = current

    def list(self, *, caller: Caller) -> list[types.Resource]:
        return [
            types.Resource(
                uri=URI,
                name="policy",
                title="What you may do",
                description="Tools, languages with their limits, hosts, databases, paths and quotas.",
                mime_type=self.mime_type,
            )
        ]

    async def read(self, uri: str, *, caller: Caller) -> str:
        """Raises NotFound."""
        if uri != URI:
            raise NotFound("there is no such resource", hint=f"there is {URI}")
        view = effective_view(self._current.effective(caller.who))
        view["tools"] = list(self._current.tools(caller))
        return visible(json.dumps(view, ensure_ascii=False, default=str))

    def complete(self, argument: str, value: str, *, caller: Caller) -> Sequence[str]:
        return ()
