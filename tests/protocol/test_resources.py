"""Resources as a client sees them, on a real manager and the fake engine."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError

from sandbox_server.engines.fake import FakeEngine
from sandbox_server.protocol.resources import PAGE_SIZE
from sandbox_server.protocol.server import SandboxMcpServer, build_server
from tests.execution.support import managed
from tests.protocol.fake_executor import connect


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def server(engine: FakeEngine) -> AsyncIterator[SandboxMcpServer]:
    with anyio.fail_after(20):
        async with managed(engine) as manager:
            yield build_server(manager, version="0")


async def run(client: Client, code: str, **arguments: Any) -> types.CallToolResult:
    result = await client.call_tool("code_execution", {"code": code, **arguments})
    assert not result.is_error
    return result


async def refusal(client: Client, uri: str) -> tuple[int, str]:
    with pytest.raises(MCPError) as caught:
        await client.read_resource(uri)
    return caught.value.error.code, caught.value.error.message


async def test_artifacts_are_links_that_can_be_read(server: SandboxMcpServer, era: str) -> None:
    async with connect(server, era) as client:
        result = await run(client, "save data/a%20b.csv 1,2")
        (artifact,) = result.structured_content["artifacts"]
        (link,) = [each for each in result.content if isinstance(each, types.ResourceLink)]
        assert artifact == {"path": "data/a b.csv", "size": 3, "uri": link.uri}
        assert (link.name, link.size, link.mime_type) == ("data/a b.csv", 3, "text/csv")
        assert link.uri.startswith("sandbox://")
        (content,) = (await client.read_resource(link.uri)).contents
        assert isinstance(content, types.TextResourceContents)
        assert (content.uri, content.text, content.mime_type) == (link.uri, "1,2", "text/csv")
        assert [each.uri for each in (await client.list_resources()).resources] == [link.uri]


async def test_cut_output_says_where_it_is_whole_and_how_to_get_there(
    server: SandboxMcpServer, era: str
) -> None:
    async with connect(server, era) as client:
        result = await run(client, "flood 100000\nout \nout needle", max_output=100)
        cut = result.structured_content["truncated"]["stdout"]
        assert cut["total_bytes"] == cut["kept_bytes"] == 100_008
        assert "offset" in cut["how"]
        assert "grep" in cut["how"]
        assert cut["uri"] in result.content[0].text
        first, note = (await client.read_resource(cut["uri"])).contents
        assert first.text == "x" * 32768
        assert f"{cut['uri']}?offset=32768" in note.text
        last, note = (await client.read_resource(f"{cut['uri']}?offset=100000&limit=100")).contents
        assert last.text == "\nneedle\n"
        assert "end of 100008 bytes" in note.text
        found, note = (await client.read_resource(f"{cut['uri']}?grep=needle")).contents
        assert found.text == "100001: needle\n"
        assert "1 matches" in note.text


async def test_output_that_was_not_cut_is_no_resource(server: SandboxMcpServer, era: str) -> None:
    async with connect(server, era) as client:
        result = await run(client, "out hello")
        assert result.structured_content["truncated"] == {}
        assert result.structured_content["artifacts"] == []
        assert (await client.list_resources()).resources == []


async def test_whatever_is_not_there_gets_one_answer(server: SandboxMcpServer, era: str) -> None:
    async with connect(server, era) as client:
        result = await run(client, "save a text\nflood 1000", max_output=10)
        mine = [
            result.structured_content["artifacts"][0]["uri"],
            result.structured_content["truncated"]["stdout"]["uri"],
        ]
        for uri in mine:
            assert (await client.read_resource(uri)).contents
        wrong = ["run://" + "0" * 32 + "/stdout", "sandbox://" + "0" * 32 + "/a", "file:///etc/passwd", "x"]
        wrong += [f"{mine[0]}b", mine[1].replace("stdout", "stderr"), mine[1].replace("stdout", "../x")]
        answers = {await refusal(client, uri) for uri in wrong}
    assert len(answers) == 1
    assert answers.pop()[0] == types.INVALID_PARAMS


async def test_a_connections_list_is_its_own(server: SandboxMcpServer) -> None:
    async with connect(server, "legacy") as me, connect(server, "legacy") as you:
        await run(me, "save a text\nflood 1000", max_output=10)
        assert len((await me.list_resources()).resources) == 2
        assert (await you.list_resources()).resources == []


async def test_a_list_comes_in_pages(server: SandboxMcpServer, era: str) -> None:
    count = 64
    async with connect(server, era) as client:
        for turn in range(4):
            await run(client, "\n".join(f"save {turn}-{n} x" for n in range(count)))
        names, cursor = [], None
        while True:
            page = await client.list_resources(cursor=cursor)
            assert len(page.resources) <= PAGE_SIZE
            names += [each.name for each in page.resources]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert sorted(names) == sorted(f"{turn}-{n}" for turn in range(4) for n in range(count))


@pytest.mark.parametrize("cursor", ["", "x", "ZnJvbTox\n", "ZnJvbTotMQ==", "ZnJvbTowMQ==", "é"])
async def test_a_cursor_that_was_never_handed_out_is_refused(
    server: SandboxMcpServer, era: str, cursor: str
) -> None:
    async with connect(server, era) as client:
        with pytest.raises(MCPError) as refused:
            await client.list_resources(cursor=cursor)
        assert refused.value.error.code == types.INVALID_PARAMS
        with pytest.raises(MCPError):
            await client.list_resource_templates(cursor=cursor)


async def test_templates_name_both_kinds(server: SandboxMcpServer, era: str) -> None:
    async with connect(server, era) as client:
        templates = (await client.list_resource_templates()).resource_templates
    assert [each.uri_template for each in templates] == [
        "run://{id}/{stream}{?offset,limit,grep}",
        "sandbox://{holder}/{+path}{?offset,limit}",
    ]


@pytest.mark.parametrize(
    "query",
    [
        "offset=-1",
        "offset=x",
        "limit=0",
        "limit=99999999",
        "p=1",
        "offset=1&offset=2",
        "grep=",
        "%",
        "offset",
    ],
)
async def test_a_query_that_makes_no_sense_is_refused_with_advice(
    server: SandboxMcpServer, era: str, query: str
) -> None:
    async with connect(server, era) as client:
        result = await run(client, "flood 1000", max_output=10)
        uri = result.structured_content["truncated"]["stdout"]["uri"]
        code, message = await refusal(client, f"{uri}?{query}")
    assert code == types.INVALID_PARAMS
    assert "no such resource" not in message


async def test_text_that_could_play_a_terminal_and_bytes_arrive_as_they_are(
    server: SandboxMcpServer, engine: FakeEngine, era: str
) -> None:
    samples = {
        b"\x1b[31m": None,
        b"\xff\xfe": None,
        b"a\r\nb\xe2\x82\xac": "a\r\nb€",
        b"\x89PNG\r\n\x1a\nx": None,
    }
    async with connect(server, "legacy") as client:
        result = await run(client, "save a text")
        uri = result.structured_content["artifacts"][0]["uri"]
        for data, text in samples.items():
            engine.started[-1].runner.files["a"] = data
            (content,) = (await client.read_resource(uri)).contents
            if text is None:
                assert isinstance(content, types.BlobResourceContents)
                assert base64.b64decode(content.blob) == data
            else:
                assert isinstance(content, types.TextResourceContents)
                assert content.text == text
        assert content.mime_type == "image/png"


async def test_a_large_file_is_read_in_pages(server: SandboxMcpServer, engine: FakeEngine) -> None:
    data = bytes(range(256)) * 8192
    async with connect(server, "legacy") as client:
        uri = (await run(client, "save a text")).structured_content["artifacts"][0]["uri"]
        engine.started[-1].runner.files["a"] = data
        pieces, where = [], uri
        while where:
            content, *note = (await client.read_resource(where)).contents
            assert isinstance(content, types.BlobResourceContents)
            pieces.append(base64.b64decode(content.blob))
            where = note[0].text.rpartition("go on with ")[2].rstrip("]") if "go on" in note[0].text else ""
    assert b"".join(pieces) == data


async def test_names_are_shown_and_never_played(server: SandboxMcpServer, era: str) -> None:
    async with connect(server, era) as client:
        result = await run(client, "save %1B%5B31m%0Aoutcome%FF%E2%80%AE x")
        shown = [result.content[0].text, result.structured_content["artifacts"][0]["path"]]
        shown += [each.name for each in result.content if isinstance(each, types.ResourceLink)]
        shown += [each.name for each in (await client.list_resources()).resources]
        uri = result.structured_content["artifacts"][0]["uri"]
        assert (await client.read_resource(uri)).contents[0].text == "x"
    assert shown[1] == "\\x1b[31m\\noutcome\ufffd\\u202e"
    assert not any(set("\x1b\u202e") & set(text) for text in shown)
