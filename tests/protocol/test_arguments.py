"""Bad input to `code_execution`: a clear tool error, nothing run, nothing leaked."""

from __future__ import annotations

import base64
from typing import Any

import mcp_types as types
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox_server.errors import InvalidRequest, SandboxServerError
from sandbox_server.execution.api import Caller
from sandbox_server.execution.models import InputFile
from sandbox_server.protocol.code_execution import CodeExecutionArguments, to_request
from sandbox_server.protocol.registry import Registry, parse_arguments
from sandbox_server.protocol.server import build_server
from sandbox_server.protocol.tools import Tool
from tests.protocol.fake_executor import OK, FakeExecutor, connect

BAD: list[tuple[str, dict[str, Any], str]] = [
    ("no code", {}, "code: required"),
    ("empty code", {"code": ""}, "code: is empty"),
    ("blank code", {"code": " \n\t"}, "code: is empty"),
    ("code of the wrong type", {"code": 7}, "code: input should be a valid string"),
    ("code null", {"code": None}, "code: input should be a valid string"),
    ("NUL in code", {"code": "print(1)\0"}, "code: holds a NUL"),
    (
        "unknown argument",
        {"code": "1", "langauge": "python"},
        "langauge: unknown argument, did you mean 'language'?",
    ),
    ("not yet an argument", {"code": "1", "gpu": 1}, "gpu: unknown argument"),
    ("unknown language", {"code": "1", "language": "cobol"}, "(known: python, javascript, bash)"),
    ("misspelt language", {"code": "1", "language": "pyhton"}, "did you mean 'python'?"),
    ("language by another name", {"code": "1", "language": "JS"}, "did you mean 'javascript'?"),
    ("timeout as text", {"code": "1", "timeout": "5"}, "timeout: input should be a valid number"),
    ("timeout as bool", {"code": "1", "timeout": True}, "timeout: input should be a valid number"),
    ("timeout 0", {"code": "1", "timeout": 0}, "timeout: must be more than 0 seconds"),
    ("timeout negative", {"code": "1", "timeout": -1}, "timeout: must be more than 0 seconds"),
    ("max_output negative", {"code": "1", "max_output": -1}, "max_output: must not be negative"),
    ("max_output as float", {"code": "1", "max_output": 1.5}, "max_output: input should be a valid integer"),
    ("args as text", {"code": "1", "args": "a b"}, "args: input should be a valid list"),
    ("a number in args", {"code": "1", "args": ["a", 1]}, "args[1]: input should be a valid string"),
    ("NUL in args", {"code": "1", "args": ["a\0"]}, "args[0]: holds a NUL"),
    ("files as mapping", {"code": "1", "files": {"a": "b"}}, "files: input should be a valid list"),
    ("file without content", {"code": "1", "files": [{"path": "a"}]}, "files[0]: give either"),
    (
        "file with both contents",
        {"code": "1", "files": [{"path": "a", "content": "x", "content_base64": "eA=="}]},
        "files[0]: give either",
    ),
    (
        "not base64",
        {"code": "1", "files": [{"path": "a", "content_base64": "!"}]},
        "content_base64: is not valid",
    ),
    (
        "file mode",
        {"code": "1", "files": [{"path": "a", "content": "", "mode": 1}]},
        "files[0].mode: unknown",
    ),
    (
        "absolute path",
        {"code": "1", "files": [{"path": "/etc/passwd", "content": ""}]},
        "relative to /workspace",
    ),
    ("path upwards", {"code": "1", "files": [{"path": "a/../../b", "content": ""}]}, "must not contain '..'"),
    ("empty path", {"code": "1", "files": [{"path": "", "content": ""}]}, "files[0].path: must name a file"),
    (
        "directory path",
        {"code": "1", "files": [{"path": "a/", "content": ""}]},
        "files[0].path: must name a file",
    ),
    ("NUL in path", {"code": "1", "files": [{"path": "a\0b", "content": ""}]}, "files[0].path: holds a NUL"),
    ("long name", {"code": "1", "files": [{"path": "a" * 256, "content": ""}]}, "files[0].path: is too long"),
    (
        "path twice",
        {"code": "1", "files": [{"path": "a", "content": ""}, {"path": "./a", "content": ""}]},
        "files[1].path: the same path",
    ),
]

TOO_MUCH: list[tuple[str, dict[str, Any], str]] = [
    ("timeout", {"code": "1", "timeout": 10**9}, "timeout: 1,000,000,000 seconds is more than the 300"),
    ("code", {"code": "#" * 10_000_000}, "code: 10,000,000 bytes is more than"),
    ("max_output", {"code": "1", "max_output": 10**9}, "max_output: 1,000,000,000 bytes is more than"),
    ("args", {"code": "1", "args": ["a"] * 65}, "args: 65 arguments is more than the 64"),
    ("one argument", {"code": "1", "args": ["a" * 131_072]}, "args[0]: 131,072 bytes is more than"),
    ("stdin", {"code": "1", "stdin": "a" * 4_194_305}, "stdin: 4,194,305 bytes is more than"),
    (
        "files",
        {"code": "1", "files": [{"path": f"{n}", "content": ""} for n in range(65)]},
        "files: 65 files",
    ),
]


async def call(executor: FakeExecutor, era: str, arguments: dict[str, Any]) -> types.CallToolResult:
    async with connect(build_server(executor, version="0"), era) as client:
        return await client.call_tool("code_execution", arguments)


def text_of(result: types.CallToolResult) -> str:
    (block,) = result.content
    assert isinstance(block, types.TextContent)
    return block.text


@pytest.mark.parametrize(("arguments", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
async def test_wrong_arguments_are_named_one_by_one(
    executor: FakeExecutor, era: str, arguments: dict[str, Any], message: str
) -> None:
    result = await call(executor, era, arguments)
    assert result.is_error
    assert result.structured_content["code"] == "invalid_request"
    assert message in result.structured_content["message"]
    assert message in text_of(result)
    assert "pydantic" not in text_of(result)
    assert executor.requests == []


@pytest.mark.parametrize(
    ("arguments", "message"), [case[1:] for case in TOO_MUCH], ids=[case[0] for case in TOO_MUCH]
)
async def test_asking_for_too_much_says_how_much_is_allowed(
    executor: FakeExecutor, arguments: dict[str, Any], message: str
) -> None:
    result = await call(executor, "legacy", arguments)
    assert result.is_error
    assert result.structured_content["code"] == "limit_exceeded"
    assert message in result.structured_content["message"]
    assert executor.requests == []


@pytest.mark.parametrize("timeout", [float("nan"), float("inf"), 10**400])
def test_a_timeout_that_is_no_finite_number_is_refused(timeout: float) -> None:
    with pytest.raises(InvalidRequest, match="timeout: input should be a"):
        parse_arguments(CodeExecutionArguments, {"code": "1", "timeout": timeout})


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"code": "print('\ud800')"}, "code"),
        ({"code": "1", "args": ["a", "\udcff"]}, "args[1]"),
        ({"code": "1", "files": [{"path": "\udfff", "content": ""}]}, "files[0].path"),
    ],
)
async def test_lone_surrogates_are_refused_by_where_they_are(
    executor: FakeExecutor, arguments: dict[str, Any], path: str
) -> None:
    result = await call(executor, "2026-07-28", arguments)
    assert result.is_error
    assert f"- {path}: holds a lone surrogate" in text_of(result)
    text_of(result).encode()
    assert executor.requests == []


async def test_values_are_never_echoed(executor: FakeExecutor, era: str) -> None:
    result = await call(executor, era, {"code": "1", "timeout": "s3cret", "args": [{"s3cret": 1}]})
    assert "s3cret" not in result.model_dump_json()


async def test_many_problems_are_summed_up(executor: FakeExecutor) -> None:
    result = await call(executor, "legacy", {"code": "1"} | {f"unknown{n}": n for n in range(50)})
    assert "and 38 more" in text_of(result)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({f"unknown{n}": n for n in range(100_000)}, "100001 are too many"),
        ({"args": [1] * 1_000_000}, "args: list should have at most"),
        ({"files": [{}] * 300_000}, "files: list should have at most"),
        ({"language": "x" * 5_000_000}, "language: string should have at most 64"),
    ],
    ids=["keys", "args", "files", "language"],
)
def test_a_flood_of_arguments_is_refused_before_each_is_looked_at(
    arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_arguments(CodeExecutionArguments, {"code": "1"} | arguments)
    assert said in caught.value.message
    assert len(caught.value.message) < 1000


async def test_good_arguments_arrive_whole(executor: FakeExecutor, era: str) -> None:
    result = await call(
        executor,
        era,
        {
            "code": "print('ü')\n",
            "language": "bash",
            "timeout": 5,
            "stdin": "a\0b",
            "args": ["--flag", ""],
            "files": [
                {"path": "data/ä.csv", "content": "1;2\n"},
                {"path": "b.bin", "content_base64": base64.b64encode(b"\0\xff").decode()},
            ],
            "max_output": 100,
        },
    )
    assert not result.is_error
    (request,) = executor.requests
    assert (request.language, request.code) == ("bash", "print('ü')\n")
    assert (request.stdin, request.args) == (b"a\0b", ("--flag", ""))
    assert request.files == (InputFile("data/ä.csv", b"1;2\n"), InputFile("b.bin", b"\0\xff"))
    assert (request.limits.wall, request.limits.output) == (5.0, 100)


async def test_what_is_not_given_comes_from_the_caps(executor: FakeExecutor, era: str) -> None:
    await call(executor, era, {"code": "1"})
    (request,) = executor.requests
    assert request.language == "python"
    assert request.limits.wall == executor.caps(Caller()).default_wall
    assert request.limits.output == executor.caps(Caller()).default_output


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from([*CodeExecutionArguments.model_fields, "session", "\ud800"])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arguments=st.dictionaries(names, json_values, max_size=5))
def test_no_arguments_whatsoever_are_an_exception(arguments: dict[str, Any]) -> None:
    executor = FakeExecutor()
    try:
        parsed = parse_arguments(CodeExecutionArguments, arguments)
        assert isinstance(parsed, CodeExecutionArguments)
        to_request(parsed, caps=executor.caps(Caller()), languages=executor.languages(Caller()))
    except SandboxServerError as error:
        error.message.encode()


def test_two_tools_of_one_name_are_a_mistake_of_ours() -> None:
    async def handler(arguments: CodeExecutionArguments, call: object) -> types.CallToolResult:
        return types.CallToolResult(content=[], structured_content={"outcome": OK.outcome})

    tool = Tool("t", "T", "", CodeExecutionArguments, handler)
    with pytest.raises(ValueError, match="two tools are called 't'"):
        Registry([tool, tool])
