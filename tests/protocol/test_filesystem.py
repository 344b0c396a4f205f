"""The tool `filesystem`: what it takes, what it asks of the executor, what it makes of the answer."""

from __future__ import annotations

import base64
import json
from typing import Any

import mcp_types as types
import pytest

from sandbox_server.errors import NotFound
from sandbox_server.execution import file_models as models
from sandbox_server.protocol.server import build_server
from tests.protocol.fake_executor import FakeExecutor, connect

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


async def call(executor: FakeExecutor, era: str = "legacy", **arguments: Any) -> types.CallToolResult:
    async with connect(build_server(executor, version="1"), era) as client:
        return await client.call_tool("filesystem", arguments)


def structured(result: types.CallToolResult) -> dict[str, Any]:
    assert result.structured_content is not None
    return dict(result.structured_content)


def text(result: types.CallToolResult) -> str:
    assert isinstance(result.content[0], types.TextContent)
    return result.content[0].text


ASKED: list[tuple[dict[str, Any], models.FileOperation]] = [
    ({"operation": "read", "path": "a"}, models.ReadFile("a")),
    (
        {"operation": "read", "path": "a", "offset": 5, "max_bytes": 7},
        models.ReadFile("a", offset=5, length=7),
    ),
    ({"operation": "read", "path": "a", "line": 2, "lines": 3}, models.ReadFile("a", line=2, lines=3)),
    ({"operation": "read", "path": "a", "lines": 3}, models.ReadFile("a", line=1, lines=3)),
    ({"operation": "write", "path": "a", "content": "ü"}, models.WriteFile("a", "ü".encode())),
    ({"operation": "write", "path": "a", "content": ""}, models.WriteFile("a", b"")),
    (
        {"operation": "write", "path": "a", "content_base64": "AP8=", "append": True, "mode": "755"},
        models.WriteFile("a", b"\0\xff", append=True, mode=0o755),
    ),
    ({"operation": "write", "path": "a", "content": "x", "offset": 0}, models.WriteFile("a", b"x", at=0)),
    ({"operation": "list"}, models.ListFiles(".")),
    (
        {
            "operation": "list",
            "path": "d",
            "recursive": True,
            "glob": "**/*.py",
            "cursor": "abc",
            "limit": 1000,
        },
        models.ListFiles("d", recursive=True, glob="**/*.py", cursor="abc", limit=1000),
    ),
    ({"operation": "delete", "path": "a", "recursive": True}, models.DeleteFile("a", recursive=True)),
    ({"operation": "create_dir", "path": "a/b"}, models.CreateDirectory("a/b")),
    (
        {
            "operation": "edit",
            "path": "a",
            "edits": [{"old": "x", "new": "y"}, {"old": "z", "new": "", "all": True}],
        },
        models.EditFile("a", (models.Edit("x", "y"), models.Edit("z", "", all=True))),
    ),
    (
        {"operation": "move", "path": "a", "to": "b", "overwrite": True},
        models.MoveFile("a", "b", overwrite=True),
    ),
    (
        {"operation": "copy", "path": "a", "to": "b", "recursive": True},
        models.CopyFile("a", "b", recursive=True),
    ),
    ({"operation": "stat", "path": "a"}, models.StatFile("a")),
    (
        {"operation": "search", "pattern": "x+", "ignore_case": True, "context": 2},
        models.SearchFiles(".", "x+", ignore_case=True, context=2),
    ),
]


@pytest.mark.parametrize(("arguments", "operation"), ASKED, ids=lambda each: json.dumps(each, default=repr))
async def test_arguments_become_one_operation(
    arguments: dict[str, Any], operation: models.FileOperation, executor: FakeExecutor
) -> None:
    executor.file_script = lambda _: models.Written(3)
    result = await call(executor, **arguments)
    assert not result.is_error
    assert executor.operations == [operation]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "operation: required"),
    ({"operation": "chmod", "path": "a"}, "operation: "),
    ({"operation": "read"}, "path: required for read"),
    ({"operation": "read", "path": "a", "content": "x"}, "content: not an argument of read (only of write)"),
    ({"operation": "stat", "path": "a", "recursive": True}, "recursive: not an argument of stat"),
    ({"operation": "read", "path": "a", "max_bytes": 1 << 30}, "max_bytes: must be between 1 and 4,194,304"),
    ({"operation": "read", "path": "a", "offset": -1}, "offset: must be between 0"),
    ({"operation": "read", "path": "a", "line": 0}, "line: must be between 1"),
    ({"operation": "read", "path": "a", "offset": 1, "line": 1}, "offset: give either"),
    ({"operation": "read", "path": "a", "encoding": "utf-16"}, "encoding: "),
    ({"operation": "write", "path": "a"}, "content: give either content or content_base64"),
    ({"operation": "write", "path": "a", "content": "", "content_base64": ""}, "content: give either"),
    ({"operation": "write", "path": "a", "content_base64": "?"}, "content_base64: is not valid base64"),
    ({"operation": "write", "path": "a", "content": "", "mode": "4755"}, "mode: must be three octal digits"),
    ({"operation": "write", "path": "a", "content": "", "append": True, "offset": 1}, "append: offset alone"),
    ({"operation": "edit", "path": "a"}, "edits: required for edit"),
    ({"operation": "edit", "path": "a", "edits": []}, "edits: must be 1 to 100 edits"),
    ({"operation": "edit", "path": "a", "edits": [{"old": "", "new": "x"}]}, "edits[0].old: is empty"),
    (
        {"operation": "edit", "path": "a", "edits": [{"old": "x", "new": "x"}]},
        "edits[0]: old and new are the same",
    ),
    ({"operation": "move", "path": "a"}, "to: required for move"),
    ({"operation": "search"}, "pattern: required for search"),
    ({"operation": "search", "pattern": ""}, "pattern: must be 1 to 1,000 characters"),
    ({"operation": "search", "pattern": "x", "limit": 201}, "limit: must be between 1 and 200"),
    ({"operation": "list", "limit": "5"}, "limit: "),
    ({"operation": "list", "patern": "x"}, "patern: unknown argument, did you mean 'pattern'?"),
]


@pytest.mark.parametrize(("arguments", "problem"), WRONG, ids=lambda each: json.dumps(each))
async def test_wrong_arguments_are_named_and_nothing_is_done(
    arguments: dict[str, Any], problem: str, executor: FakeExecutor
) -> None:
    result = await call(executor, **arguments)
    assert result.is_error
    assert structured(result)["code"] == "invalid_request"
    assert problem in structured(result)["message"]
    assert executor.operations == []


async def read(executor: FakeExecutor, data: bytes, size: int | None = None, **arguments: Any) -> Any:
    size = len(data) if size is None else size
    executor.file_script = lambda _: models.FileContent(data, arguments.get("offset", 0), size)
    return await call(executor, operation="read", path="a", **arguments)


async def test_text_comes_as_text_with_its_dangerous_characters_shown(
    executor: FakeExecutor, era: str
) -> None:
    executor.file_script = lambda _: models.FileContent(b"one\x1b[2J\xc3\xbc\n", 0, 10)
    result = await call(executor, era, operation="read", path="a")
    facts = structured(result)["result"]
    assert (facts["encoding"], facts["text"], facts["escaped"]) == ("text", "one\\x1b[2Jü\n", True)
    assert facts["next_offset"] is None
    assert text(result) == "read a: bytes 0 to 10 of 10\nContent (untrusted data):\none\\x1b[2Jü\n"


async def test_a_character_that_the_end_has_split_comes_with_the_next_piece(executor: FakeExecutor) -> None:
    facts = structured(await read(executor, "aü".encode()[:2], size=30))["result"]
    assert (facts["text"], facts["bytes"], facts["next_offset"]) == ("a", 1, 1)
    facts = structured(await read(executor, "aü".encode()[:2]))["result"]
    assert facts["encoding"] == "base64"


@pytest.mark.parametrize("data", [b"\xff\xfe", b"a\0b", b"\x89PNG but not"])
async def test_bytes_come_as_base64(executor: FakeExecutor, data: bytes) -> None:
    result = await read(executor, data)
    facts = structured(result)["result"]
    assert facts["encoding"] == "base64"
    assert base64.b64decode(facts["base64"]) == data
    assert len(result.content) == 1


async def test_text_comes_as_base64_on_request(executor: FakeExecutor) -> None:
    facts = structured(await read(executor, b"text", encoding="base64"))["result"]
    assert base64.b64decode(facts["base64"]) == b"text"


async def test_an_image_comes_whole_as_an_image(executor: FakeExecutor) -> None:
    whole = PNG + bytes(100_000)

    def script(operation: models.FileOperation) -> models.FileResult:
        assert isinstance(operation, models.ReadFile)
        return models.FileContent(whole[: operation.length], 0, len(whole))

    executor.file_script = script
    result = await call(executor, operation="read", path="a.png")
    image = result.content[1]
    assert isinstance(image, types.ImageContent)
    assert (image.mime_type, base64.b64decode(image.data)) == ("image/png", whole)
    assert "base64" not in structured(result)["result"]
    cut = structured(await call(executor, operation="read", path="a.png", max_bytes=100))["result"]
    assert (cut["encoding"], cut["next_offset"]) == ("base64", 100)


ENTRY = models.Entry("a\\nb", True, "file", 5, 0o644, 1.5)
MATCH = models.Match("a", False, 3, 2, "x\x1b", True, ("before",), ("after",))
TOLD: list[tuple[dict[str, Any], models.FileResult, dict[str, Any], str]] = [
    (
        {"operation": "list"},
        models.Listing((ENTRY,), "next", 1),
        {
            "entries": [
                {
                    "path": "a\\nb",
                    "type": "file",
                    "size": 5,
                    "mode": "644",
                    "modified": 1.5,
                    "escaped": True,
                }
            ],
            "cursor": "next",
            "skipped": 1,
        },
        "1 entries, more with `cursor`",
    ),
    (
        {"operation": "search", "pattern": "x"},
        models.Matches((MATCH,), 4, 1, None),
        {
            "matches": [
                {
                    "path": "a",
                    "line": 3,
                    "column": 2,
                    "text": "x\\x1b",
                    "before": ["before"],
                    "after": ["after"],
                    "cut": True,
                }
            ],
            "cursor": None,
            "files": 4,
            "binary": 1,
        },
        "a- before\na:3: x\\x1b\na- after",
    ),
    (
        {"operation": "edit", "path": "a", "edits": [{"old": "x", "new": "y"}]},
        models.Edited("-x\n+y\n", False, 1, 2),
        {"replacements": 1, "size": 2, "diff": "-x\n+y\n", "diff_cut": False},
        "-x\n+y\n",
    ),
    ({"operation": "stat", "path": "a"}, ENTRY, {"path": "a\\nb", "type": "file"}, "file, 5 bytes, mode 644"),
    ({"operation": "delete", "path": "a"}, models.Deleted(2), {"deleted": 2}, "2 deleted"),
    ({"operation": "create_dir", "path": "a"}, models.DirectoryMade(True), {"created": True}, "created"),
    ({"operation": "move", "path": "a", "to": "b"}, models.Moved(), {"moved": True}, "moved"),
    (
        {"operation": "copy", "path": "a", "to": "b"},
        models.Copied(1, 2, 0),
        {"files": 1, "bytes": 2, "skipped": 0},
        "1 files, 2 bytes",
    ),
]


@pytest.mark.parametrize(
    ("arguments", "result", "facts", "line"), TOLD, ids=[each[0]["operation"] for each in TOLD]
)
async def test_results_are_facts_and_text(
    arguments: dict[str, Any],
    result: models.FileResult,
    facts: dict[str, Any],
    line: str,
    executor: FakeExecutor,
) -> None:
    executor.file_script = lambda _: result
    told = await call(executor, **arguments)
    assert structured(told)["result"].items() >= facts.items()
    assert line in text(told)


async def test_the_session_is_passed_on_and_told(executor: FakeExecutor, era: str) -> None:
    handle = "a" * 32
    result = await call(executor, era, operation="list", session=handle)
    assert executor.handles == [handle]
    session = {"id": handle, "state": "kept", "expires_in_seconds": 900.0, "note": ""}
    assert structured(result)["session"] == session


async def test_what_is_not_there_is_a_tool_error(executor: FakeExecutor) -> None:
    def missing(operation: models.FileOperation) -> models.FileResult:
        raise NotFound(f"{operation.path!r} does not exist", hint="list")

    executor.file_script = missing
    result = await call(executor, operation="read", path="a")
    assert result.is_error
    assert structured(result)["code"] == "not_found"
