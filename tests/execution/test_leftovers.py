"""What runs leave behind, through the manager: files, and output beyond its bounds."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from sandbox_server.engines.fake import FakeEngine
from sandbox_server.errors import InvalidRequest, NotFound, SandboxLost
from sandbox_server.execution.api import ANONYMOUS, Caller
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.models import Content, Page
from tests.execution.support import managed, run


async def read(
    manager: Manager, uri: str | None, *, on: str | None = None, principal: str = ANONYMOUS, **page: Any
) -> Content:
    assert uri is not None
    return await manager.read_resource(uri, Page(**page), caller=Caller(principal, on))


@pytest.fixture
async def small(engine: FakeEngine) -> AsyncIterator[Manager]:
    """A manager with a store of 64 KiB."""
    with anyio.fail_after(20):
        async with managed(engine, store=64 * 1024) as manager:
            yield manager


async def test_a_one_shot_run_names_its_files_and_they_outlive_its_sandbox(
    manager: Manager, engine: FakeEngine
) -> None:
    result = await run(manager, "save plots/a%20b.txt hello\nsave empty")
    await anyio.wait_all_tasks_blocked()
    assert engine.live == 0
    empty, plot = result.artifacts
    assert (plot.path, plot.size, empty.path, empty.size) == ("plots/a b.txt", 5, "empty", 0)
    assert (await read(manager, plot.uri)).data == b"hello"
    assert (await read(manager, empty.uri)).data == b""


@pytest.mark.parametrize("connection", [None, "me"])
async def test_no_more_files_are_named_than_the_policy_grants(
    engine: FakeEngine, connection: str | None
) -> None:
    async with managed(engine, files_out=2) as manager:
        result = await run(manager, "save c.txt 3\nsave a.txt 1\nsave b.txt 2", on=connection)
        assert [file.path for file in result.artifacts] == ["a.txt", "b.txt"]
        assert (result.artifacts_omitted, result.artifacts_complete) == (1, True)
        assert (await read(manager, result.artifacts[1].uri, on=connection)).data == b"2"


async def test_a_sessions_file_is_read_where_it_lies(manager: Manager) -> None:
    result = await run(manager, "save a.txt first", on="me")
    (artifact,) = result.artifacts
    assert artifact.uri == f"sandbox://{result.session.id}/a.txt"
    await run(manager, "save a.txt second", on="me")
    assert (await read(manager, artifact.uri, on="me")).data == b"second"
    assert (await read(manager, artifact.uri, on="me", offset=3, limit=2)).data == b"on"


async def test_a_sessions_file_is_read_while_code_runs(manager: Manager) -> None:
    (artifact,) = (await run(manager, "save a.txt text", on="me")).artifacts
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: run(manager, "wait", on="me"))
        await anyio.wait_all_tasks_blocked()
        assert (await read(manager, artifact.uri, on="me")).data == b"text"
        tasks.cancel_scope.cancel()


async def test_output_within_bounds_leaves_nothing(manager: Manager) -> None:
    result = await run(manager, "out hello", output=6)
    assert (result.stdout.text, result.stdout.uri, result.stdout.omitted_bytes) == ("hello\n", None, 0)
    assert manager.list_resources(caller=Caller()) == []


@pytest.mark.parametrize("size", [7, 100, 5_000, 900_000])
@pytest.mark.parametrize("output", [0, 1, 6, 4096])
async def test_output_beyond_bounds_can_be_read_whole(manager: Manager, size: int, output: int) -> None:
    result = await run(manager, f"out head\nflood {size}\nout tail\nerr little", output=output)
    whole = b"head\n" + b"x" * size + b"tail\n"
    if len(whole) <= output:
        assert result.stdout.uri is None
        return
    assert (result.stdout.total_bytes, result.stdout.kept_bytes) == (len(whole), len(whole))
    pieces, offset = [], 0
    while True:
        page = await read(manager, result.stdout.uri, offset=offset, limit=100_000)
        pieces.append(page.data)
        if page.next is None:
            break
        offset = page.next
    assert b"".join(pieces) == whole
    assert (result.stderr.uri is None) == (output >= len(b"little\n"))


async def test_output_that_only_its_escapes_make_too_long_can_be_read_too(manager: Manager) -> None:
    result = await run(manager, "out a\x01\x01\x01\x01b", output=10)
    assert result.stdout.omitted_bytes > 0
    assert (await read(manager, result.stdout.uri)).data == b"a\x01\x01\x01\x01b\n"


async def test_more_output_than_there_is_room_for_is_kept_from_the_start(small: Manager) -> None:
    result = await run(small, "flood 100000", output=10)
    assert (result.stdout.total_bytes, result.stdout.kept_bytes) == (100_000, 16 * 1024)
    assert (await read(small, result.stdout.uri, offset=16_000)).next is None


async def test_output_is_searched(manager: Manager) -> None:
    result = await run(manager, "flood 5000\nout \nout one needle\nout two\nout needle \x1b[31m", output=10)
    content = await read(manager, result.stdout.uri, grep="needle")
    assert content.found is not None
    assert [(each.offset, each.text) for each in content.found] == [
        (5001, "one needle"),
        (5016, "needle \\x1b[31m"),
    ]
    first = await read(manager, result.stdout.uri, grep="needle", limit=1)
    assert first.found == content.found[:1]
    assert first.next == 5016


async def test_a_stopped_programs_output_is_kept_too(manager: Manager) -> None:
    result = await run(manager, "flood 2000000\nwait", output=10)
    assert result.outcome == "output_limit"
    assert result.stdout.kept_bytes > 1024 * 1024
    result = await run(manager, "flood 2000\nwait", output=10, wall=0.05)
    assert result.outcome == "timeout"
    assert (await read(manager, result.stdout.uri)).total == 2000


async def test_a_file_that_has_no_room_is_named_without_a_uri(small: Manager) -> None:
    result = await run(small, f"save large {'x' * 17_000}\nsave little x")
    assert [(each.path, each.size, each.uri is None) for each in result.artifacts] == [
        ("large", 17_000, True),
        ("little", 1, False),
    ]


async def test_a_run_whose_sandbox_is_lost_leaves_nothing(manager: Manager) -> None:
    with pytest.raises(SandboxLost):
        await run(manager, "flood 1000\nsave a text\ndie", output=10)
    assert manager.list_resources(caller=Caller()) == []


async def test_a_cancelled_run_leaves_nothing(manager: Manager) -> None:
    with anyio.move_on_after(0.05):
        await run(manager, "flood 1000\nwait", output=10)
    assert manager.list_resources(caller=Caller()) == []


@pytest.mark.parametrize(
    "claim",
    [
        [["../up", 1]], [["/etc/passwd", 1]], [["a//b", 1]], [["a/./b", 1]], [["", 1]], [["a%00b", 1]],
        [["a b", 1]], [["a%2Fb", 1]], [["%41", 1]], [["%2e%2e/a", 1]], [["x" * 256, 1]],
        [["a/" * 600 + "a", 1]], [["a", -1]],
        [["a", "1"]], [["a", 2**60]], [["a"]], [["a", 1]] * 65, "a", None,
    ],
)  # fmt: skip
async def test_a_report_of_files_that_our_runner_would_not_make_is_not_believed(
    manager: Manager, claim: object
) -> None:
    report = {"files": claim, "omitted": 0, "complete": True}
    with pytest.raises(SandboxLost, match="broke the protocol"):
        await run(manager, f"claim {json.dumps(report)}")


async def test_a_file_that_is_gone_or_has_changed_is_not_kept(manager: Manager) -> None:
    report = {"files": [["gone", 1], ["a", 9]], "omitted": 7, "complete": False}
    result = await run(manager, f"save a text\nclaim {json.dumps(report)}")
    assert [(each.path, each.uri) for each in result.artifacts] == [("a", None), ("gone", None)]
    assert (result.artifacts_omitted, result.artifacts_complete) == (7, False)


async def test_strangers_get_the_answer_that_a_wrong_id_gets(manager: Manager) -> None:
    mine = await run(manager, "save a text\nflood 1000", on="c", principal="me", output=10)
    shot = await run(manager, "save a text\nflood 1000", principal="me", output=10)
    theirs = [mine.stdout.uri, mine.artifacts[0].uri, shot.stdout.uri, shot.artifacts[0].uri]
    for uri in theirs:
        await read(manager, uri, principal="me")
    wrong = [
        "run://" + "0" * 32 + "/stdout",
        "sandbox://" + "0" * 32 + "/a",
        "file:///etc/passwd",
        "",
        "run://x",
    ]
    answers = set()
    for uri in [*theirs, *wrong, f"{mine.artifacts[0].uri}b"]:
        with pytest.raises(NotFound) as caught:
            await read(manager, uri, principal="stranger", on="c")
        answers.add(str(caught.value))
    with pytest.raises(NotFound) as caught:
        await read(manager, f"{mine.artifacts[0].uri}b", principal="me")
    assert answers == {str(caught.value)}


async def test_a_list_has_what_the_callers_connection_left(manager: Manager) -> None:
    mine = await run(manager, "save a text\nflood 1000", on="mine", output=10)
    await run(manager, "save b text\nflood 1000", on="another", output=10)
    shot = await run(manager, "save c text", principal="you")
    listed = manager.list_resources(caller=Caller(connection="mine"))
    assert [(each.uri, each.name, each.size) for each in listed] == [
        (mine.stdout.uri, "stdout", 1000),
        (mine.artifacts[0].uri, "a", 4),
    ]
    assert manager.list_resources(caller=Caller()) == []
    assert [each.uri for each in manager.list_resources(caller=Caller("you"))] == [shot.artifacts[0].uri]


async def test_a_session_that_has_ended_takes_its_files_along(manager: Manager) -> None:
    (artifact,) = (await run(manager, "save a text", on="me")).artifacts
    await manager.close_connection("me")
    with pytest.raises(NotFound):
        await read(manager, artifact.uri, on="me")
    assert manager.list_resources(caller=Caller(connection="me")) == []


@pytest.mark.parametrize(
    "page",
    [
        {"offset": -1}, {"offset": 2**70}, {"limit": 0}, {"limit": 10**9},
        {"grep": ""}, {"grep": "a\nb"}, {"grep": "x" * 201}, {"grep": "\ud800"},
    ],
)  # fmt: skip
async def test_a_page_that_can_not_be_is_refused(manager: Manager, page: dict[str, object]) -> None:
    result = await run(manager, "flood 1000", output=10)
    with pytest.raises(InvalidRequest):
        await read(manager, result.stdout.uri, **page)


async def test_files_are_not_searched(manager: Manager) -> None:
    (artifact,) = (await run(manager, "save a text")).artifacts
    with pytest.raises(InvalidRequest, match="only output"):
        await read(manager, artifact.uri, grep="text")


async def test_a_runner_that_hands_out_more_than_was_asked_for_costs_its_sandbox(
    manager: Manager, engine: FakeEngine
) -> None:
    (artifact,) = (await run(manager, "save a text", on="me")).artifacts
    runner = engine.started[-1].runner
    runner.files["a"] = b"x" * 100
    runner._read = lambda number, request: (  # type: ignore[method-assign]
        runner.sent.extend(_stdout(number, b"x" * 50))
    )
    with pytest.raises(NotFound):
        await read(manager, artifact.uri, on="me", limit=10)
    await anyio.wait_all_tasks_blocked()
    assert engine.live == 0


def _stdout(number: int, data: bytes) -> bytes:
    from sandbox_server import wire

    return wire.encode(wire.Type.STDOUT, number, data)
