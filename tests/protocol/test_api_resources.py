"""`api://` resources as an MCP client reads them: by the caller's rules, text as text and bytes as bytes."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import mcp_types as types
import pytest
from mcp.shared.exceptions import MCPError

from tests.access.http.lab import Script, Seen, Server, answer, serve
from tests.access.whole import Whole, Zone, whole

pytestmark = pytest.mark.anyio

POLICY = """
roles:
  basic:
    tools: {allow: [web_api]}
    web: {allow: [{hosts: [site.example.com], schemes: [http], ports: [PORT], addresses: ["127.0.0.1/32"]}]}
resources:
  - api: {name: once, url: "http://site.example.com:PORT/once", ttl: 0s}
  - api: {name: kept, url: "http://site.example.com:PORT/kept", ttl: 60s}
deployment: {warm: 0}
"""


@dataclass
class Here:
    whole: Whole
    server: Server
    script: Script = answer()  # noqa: RUF009 - it has no state

    async def read(self, uri: str) -> list[types.TextResourceContents | types.BlobResourceContents]:
        return [*(await self.whole.client.read_resource(uri)).contents]


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Here]:
    async def script(seen: Seen, stream: object) -> None:
        await found.script(seen, stream)  # type: ignore[arg-type]

    async with serve(script) as server:
        policy = POLICY.replace("PORT", str(server.port))
        async with whole(tmp_path, policy, Zone(others=["127.0.0.1"])) as running:
            found = Here(running, server)
            yield found


@pytest.mark.parametrize(
    ("kind", "said"),
    [("image/png", "image/png"), ("Image/PNG; a=b", "image/png"), ("x", None), ("a/\x85", None)],
)
async def test_bytes_come_as_bytes(here: Here, kind: str, said: str | None) -> None:
    data = b"\x89PNG\0\xff"
    here.script = answer(data, Content_Type=kind)
    about, content = await here.read("api://once")
    assert isinstance(content, types.BlobResourceContents)
    assert base64.b64decode(content.blob) == data
    assert content.mime_type == (said or "application/octet-stream")
    assert isinstance(about, types.TextResourceContents)
    assert about.text.startswith(f"200 http://site.example.com:{here.server.port}/once")


async def test_text_comes_as_text(here: Here) -> None:
    here.script = answer("hello")
    (content,) = await here.read("api://once")
    assert isinstance(content, types.TextResourceContents)
    assert content.text.endswith("\nhello")


async def test_what_goes_wrong_says_why_and_what_next(here: Here) -> None:
    here.script = answer("HTTP", Content_Encoding="br")
    with pytest.raises(MCPError, match=r"upstream_failed: .*not offered.*Offered were: gzip"):
        await here.read("api://once")
    assert await here.whole.rewrite(
        POLICY.replace("PORT", str(here.server.port)).replace('/32"]}', '/32"], rate: 1/min}')
    )
    here.script = answer()
    await here.read("api://once")
    with pytest.raises(MCPError, match=r"busy: .*1 requests in 60 s.; retry after [0-9.]+ s"):
        await here.read("api://once")


async def test_each_reading_is_decided_once_whether_an_answer_was_kept_or_not(here: Here) -> None:
    for _ in range(2):
        await here.read("api://kept")
    assert here.server.connections == 1
    assert [each["tool"] for each in await here.whole.record("decision")] == ["resource", "resource"]
    assert len(await here.whole.record("request")) == 1
