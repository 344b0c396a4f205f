"""Resources `db://{name}/schema`: what a caller may know of a database, and its name completed."""

from __future__ import annotations

import re
from collections.abc import Sequence

import mcp_types as types

from sandbox_server.access.database.databases import Databases
from sandbox_server.errors import NotFound
from sandbox_server.execution.api import Caller
from sandbox_server.protocol.text import visible

TEMPLATE = "db://{name}/schema"
MAX_COMPLETIONS = 100
_URI = re.compile(r"db://([A-Za-z0-9_.-]{1,64})/schema")


class SchemaResources:
    """A provider of resources over `databases`."""

    scheme = "db://"
    mime_type = "text/plain"
    templates = (
        types.ResourceTemplate(
            uri_template=TEMPLATE,
            name="schema",
            title="Schema of a database",
            description="Named queries, relations, columns with types and keys that you may use.",
            mime_type="text/plain",
        ),
    )

    def __init__(self, databases: Databases) -> None:
        self._databases = databases

    def list(self, *, caller: Caller) -> list[types.Resource]:
        return [
            types.Resource(uri=f"db://{name}/schema", name=f"{name} schema", mime_type="text/plain")
            for name in self._databases.names(caller=caller)
        ]

    async def read(self, uri: str, *, caller: Caller) -> str:
        """Raises errors of ours."""
        match = _URI.fullmatch(uri)
        if match is None:
            raise NotFound("there is no such resource", hint=f"write {TEMPLATE}")
        return visible(await self._databases.schema(match[1], caller=caller))

    def complete(self, argument: str, value: str, *, caller: Caller) -> Sequence[str]:
        names = self._databases.names(caller=caller) if argument == "name" else ()
        return [name for name in names if name.startswith(value)][:MAX_COMPLETIONS]
