"""MCP resources: what runs have left, as lists and pages. Each caller sees its own only."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol
from urllib.parse import parse_qsl, quote

import mcp_types as types
from mcp.shared.exceptions import MCPError

from sandbox_server.errors import Busy, InvalidRequest, NotFound, PolicyDenied, SandboxServerError
from sandbox_server.execution.api import Caller, Executor
from sandbox_server.execution.models import Content, Page, Resource
from sandbox_server.protocol.asking import Question
from sandbox_server.protocol.gate import Gate, OpenGate
from sandbox_server.protocol.text import clip, visible
from sandbox_server.protocol.tools import Asked, Context, Told

PAGE_SIZE = 100
MAX_URI = 8 * 1024
TEMPLATES = [
    types.ResourceTemplate(
        uri_template="run://{id}/{stream}{?offset,limit,grep}",
        name="output",
        title="Output of a run",
        description="stdout or stderr of a run that printed more than it was asked to return. `offset` and "
        "`limit` are in bytes; `grep` gives only the lines that hold this plain text.",
        mime_type="text/plain",
    ),
    types.ResourceTemplate(
        uri_template="sandbox://{holder}/{+path}{?offset,limit}",
        name="file",
        title="File made by a run",
        description="A file in a session's workspace or left by a one-shot run. `offset` and `limit` are in "
        "bytes.",
    ),
]
_NUMBER = re.compile(r"[0-9]{1,18}")
_TYPES = {
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".md": "text/markdown",
    ".svg": "image/svg+xml",
}
_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"%PDF-": "application/pdf",
    b"PK\x03\x04": "application/zip",
}


@dataclass(frozen=True, slots=True)
class Binary:
    """What is no text: in base64, and `about` it a text like any other."""

    base64: str
    mime_type: str
    about: str


class Provider(Protocol):
    """Resources of another kind, which this module serves beside those of runs."""

    @property
    def scheme(self) -> str:
        """What its URIs begin with, such as `db://`."""

    @property
    def mime_type(self) -> str: ...

    @property
    def templates(self) -> Sequence[types.ResourceTemplate]: ...

    def list(self, *, caller: Caller) -> list[types.Resource]: ...

    async def read(self, uri: str, *, caller: Caller) -> str | Binary:
        """Its text, with nothing in it that could play a terminal. Raises errors of ours."""

    def complete(self, argument: str, value: str, *, caller: Caller) -> Sequence[str]:
        """What `argument` of its template could be that begins with `value`; at most 100."""


_Contents = list[types.TextResourceContents | types.BlobResourceContents]


class Resources:
    """The handlers over `executor` and `providers`."""

    def __init__(
        self, executor: Executor, providers: Sequence[Provider] = (), gate: Gate | None = None
    ) -> None:
        self._gate = gate or OpenGate()
        self._executor = executor
        self._providers = tuple(providers)

    async def list(
        self, context: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        start = _position(params.cursor if params else None)
        caller = self._gate.caller(context)
        everything = [each for provider in self._providers for each in provider.list(caller=caller)]
        everything += [_listed(each) for each in self._executor.list_resources(caller=caller)]
        after = start + PAGE_SIZE
        return types.ListResourcesResult(
            resources=everything[start:after],
            next_cursor=_cursor(after) if after < len(everything) else None,
            ttl_ms=0,
            cache_scope="private",
        )

    async def templates(
        self, context: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        if params is not None and params.cursor is not None:
            raise _refusal("Unknown cursor; resources/templates/list has a single page")
        return types.ListResourceTemplatesResult(
            resource_templates=[*TEMPLATES, *(each for one in self._providers for each in one.templates)],
            ttl_ms=300_000,
            cache_scope="public",
        )

    async def complete(self, context: Context, params: types.CompleteRequestParams) -> types.CompleteResult:
        """Nothing for what nobody knows: a client asks while somebody types."""
        values: Sequence[str] = ()
        if isinstance(params.ref, types.ResourceTemplateReference):
            for provider in self._providers:
                if params.ref.uri in [each.uri_template for each in provider.templates]:
                    argument, caller = params.argument, self._gate.caller(context)
                    values = provider.complete(argument.name, argument.value, caller=caller)
        return types.CompleteResult(completion=types.Completion(values=[*values], total=len(values)))

    async def read(
        self, context: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult | types.InputRequiredResult:
        uri = params.uri
        try:
            caller, asked = self._gate.caller(context), Asked({"uri": uri})
            async with self._gate.admitted(context, params, caller, "resource", asked, Told()):
                contents = await self._contents(uri, caller)
        except Question as question:
            return question.result
        except (InvalidRequest, NotFound) as error:
            raise _refusal(f"{error.message}: {error.hint}", uri) from None
        except PolicyDenied as error:
            raise _refusal(f"{error.code}: {error} [{error.rule}]", uri) from None
        except SandboxServerError as error:
            wait = f"; retry after {error.retry_after:g} s" if isinstance(error, Busy) else ""
            message = visible(f"{error.code}: {error}{wait}")
            raise MCPError(code=types.INTERNAL_ERROR, message=message) from None
        return types.ReadResourceResult(contents=contents, ttl_ms=0, cache_scope="private")

    async def _contents(self, uri: str, caller: Caller) -> _Contents:
        for provider in self._providers:
            if uri.startswith(provider.scheme):
                found = await provider.read(uri, caller=caller)
                if isinstance(found, str):
                    return [_text(uri, found, provider.mime_type)]
                blob = types.BlobResourceContents(uri=uri, mime_type=found.mime_type, blob=found.base64)
                return [_text(uri, found.about, "text/plain"), blob]
        bare, page = _parse(uri)
        return _contents(uri, bare, page, await self._executor.read_resource(bare, page, caller=caller))


def guess_type(path: str) -> str | None:
    """A MIME type by a file's name, which is only its program's word."""
    suffix = PurePosixPath(path).suffix.lower()
    known = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".txt": "text/plain"} | _TYPES
    return known.get(suffix)


def _listed(resource: Resource) -> types.Resource:
    stream = resource.uri.startswith("run://")
    return types.Resource(
        uri=resource.uri,
        name=visible(resource.name),
        mime_type="text/plain" if stream else guess_type(resource.name),
        size=resource.size,
    )


def _cursor(position: int) -> str:
    return base64.urlsafe_b64encode(f"from:{position}".encode()).decode()


def _position(cursor: str | None) -> int:
    if cursor is None:
        return 0
    try:
        plain = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        plain = ""
    word, _, number = plain.partition(":")
    if word != "from" or not _NUMBER.fullmatch(number) or _cursor(int(number)) != cursor:
        raise _refusal("Unknown cursor; begin without one")
    return int(number)


def _refusal(message: str, uri: str | None = None) -> MCPError:
    data = None if uri is None else {"uri": clip(visible(uri), 300)}
    return MCPError(code=types.INVALID_PARAMS, message=visible(message), data=data)


def _parse(uri: str) -> tuple[str, Page]:
    """The resource, and what of it is wanted. Raises InvalidRequest."""
    if len(uri) > MAX_URI:
        raise InvalidRequest("the URI is too long", hint=f"at most {MAX_URI} characters")
    bare, _, query = uri.partition("?")
    wanted: dict[str, Any] = {}
    try:
        pairs = parse_qsl(
            query, keep_blank_values=True, strict_parsing=bool(query), errors="strict", max_num_fields=8
        )
    except ValueError:
        raise InvalidRequest(
            "the query is malformed", hint="write ?offset=0&limit=32768 or ?grep=text"
        ) from None
    for name, value in pairs:
        if name not in ("offset", "limit", "grep") or name in wanted:
            raise InvalidRequest(
                f"unknown or repeated parameter '{clip(visible(name), 40)}'",
                hint="there are offset, limit and grep",
            )
        if name != "grep" and not _NUMBER.fullmatch(value):
            raise InvalidRequest(f"{name} must be a number of bytes", hint="such as 32768")
        wanted[name] = value if name == "grep" else int(value)
    return bare, Page(**wanted)


def _contents(
    uri: str, bare: str, page: Page, content: Content
) -> list[types.TextResourceContents | types.BlobResourceContents]:
    if content.found is not None:
        text = "".join(f"{found.offset}: {visible(found.text)}\n" for found in content.found)
        contents = [_text(uri, text, "text/plain")]
    elif content.is_stream:
        contents = [_text(uri, visible(content.data.decode("utf-8", "replace")), "text/plain")]
    else:
        contents = [_file(uri, bare, content)]
    note = _note(bare, page, content)
    return [*contents, _text(uri, note, "text/plain")] if note else contents


def _text(uri: str, text: str, mime_type: str) -> types.TextResourceContents | types.BlobResourceContents:
    return types.TextResourceContents(uri=uri, mime_type=mime_type, text=text)


def _file(uri: str, bare: str, content: Content) -> types.TextResourceContents | types.BlobResourceContents:
    """As text only what is text and can't play a terminal: a file must arrive as it is or not at all."""
    try:
        text = content.data.decode()
    except UnicodeDecodeError:
        text = None
    if text is not None and visible(text) == text.replace("\r\n", "\n"):
        return _text(uri, text, _TYPES.get(PurePosixPath(bare).suffix.lower(), "text/plain"))
    mime_type = next((mime for magic, mime in _MAGIC.items() if content.data.startswith(magic)), None)
    return types.BlobResourceContents(
        uri=uri,
        mime_type=mime_type or "application/octet-stream",
        blob=base64.b64encode(content.data).decode("ascii"),
    )


def _note(bare: str, page: Page, content: Content) -> str:
    """How to go on; nothing if this was everything."""
    if content.found is not None:
        said = f"{len(content.found)} matches; numbers are offsets in bytes"
        grep = f"&grep={quote(page.grep or '', safe='')}"
    elif content.next is None and content.offset == 0:
        return ""
    else:
        said = f"bytes {content.offset} to {content.offset + len(content.data)}"
        grep = ""
    if content.next is None:
        return f"[{said}; end of {content.total} bytes]"
    limit = f"&limit={page.limit}" if page.limit else ""
    return f"[{said} of {content.total}; go on with {bare}?offset={content.next}{limit}{grep}]"
