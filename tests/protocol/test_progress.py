"""Live output: useful to who asks for it, harmless to the run."""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio
import pytest

from sandbox_server.errors import Busy
from sandbox_server.execution.api import OnEvent
from sandbox_server.execution.models import Output, Queued, RunRequest, RunResult
from sandbox_server.protocol.progress import LiveOutput, Pace
from sandbox_server.protocol.server import build_server
from tests.protocol.fake_executor import OK, FakeExecutor, connect


@dataclass
class Seen:
    """Notes progress as a client's callback."""

    values: list[float] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    arrived: anyio.Event = field(default_factory=anyio.Event)

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        self.values.append(progress)
        if message is not None:
            self.messages.append(message)
        self.arrived.set()


async def test_output_arrives_while_the_program_still_runs(era: str) -> None:
    seen = Seen()

    async def script(request: RunRequest, on_event: OnEvent) -> RunResult:
        on_event(Output("stdout", b"half done\n"))
        await seen.arrived.wait()
        return OK

    async with connect(build_server(FakeExecutor(script=script), version="0"), era) as client:
        with anyio.fail_after(5):
            await client.call_tool("code_execution", {"code": "1"}, progress_callback=seen)
    assert seen.messages == ["half done\n"]


async def test_all_output_that_fits_is_delivered_in_order(era: str) -> None:
    seen = Seen()

    async def script(request: RunRequest, on_event: OnEvent) -> RunResult:
        for number in range(1000):
            on_event(Output("stdout" if number % 2 else "stderr", f"{number}\n".encode()))
            if number % 100 == 0:
                await anyio.lowlevel.checkpoint()
        return OK

    async with connect(build_server(FakeExecutor(script=script), version="0"), era) as client:
        with anyio.fail_after(5):
            await client.call_tool("code_execution", {"code": "1"}, progress_callback=seen)
    assert "".join(seen.messages) == "".join(f"{number}\n" for number in range(1000))
    assert len(seen.messages) < 10
    assert seen.values == sorted(set(seen.values))


async def test_a_waiting_call_hears_its_position(era: str) -> None:
    seen = Seen()

    async def script(request: RunRequest, on_event: OnEvent) -> RunResult:
        on_event(Queued(3))
        on_event(Queued(2))
        await seen.arrived.wait()
        return OK

    async with connect(build_server(FakeExecutor(script=script), version="0"), era) as client:
        with anyio.fail_after(5):
            await client.call_tool("code_execution", {"code": "1"}, progress_callback=seen)
    assert seen.messages == ["waiting for a sandbox, position 2"]


async def test_who_does_not_ask_gets_no_notifications(era: str) -> None:
    messages: list[object] = []

    async def note(message: object) -> None:
        messages.append(message)

    async def script(request: RunRequest, on_event: OnEvent) -> RunResult:
        on_event(Output("stdout", b"x"))
        return OK

    server = build_server(FakeExecutor(script=script), version="0")
    async with connect(server, era, message_handler=note) as client:
        await client.call_tool("code_execution", {"code": "1"})
    assert messages == []


async def test_a_file_operation_that_waits_tells_its_position(era: str) -> None:
    seen = Seen()

    async def wait(on_event: OnEvent) -> None:
        on_event(Queued(3, turn=True))
        await seen.arrived.wait()

    async with connect(build_server(FakeExecutor(file_wait=wait), version="0"), era) as client:
        with anyio.fail_after(5):
            await client.call_tool("filesystem", {"operation": "list"}, progress_callback=seen)
    assert seen.messages == ["waiting for its turn in the session, position 3"]


async def test_our_errors_stay_themselves_under_progress(era: str) -> None:
    async def script(request: RunRequest, on_event: OnEvent) -> RunResult:
        on_event(Queued(9))
        raise Busy("No sandbox became free", retry_after=2.0)

    async with connect(build_server(FakeExecutor(script=script), version="0"), era) as client:
        with anyio.fail_after(5):
            result = await client.call_tool("code_execution", {"code": "1"}, progress_callback=Seen())
    assert result.structured_content["code"] == "busy"


class Reports:
    """A client's side that takes what `LiveOutput` sends, or blocks."""

    def __init__(self, *, blocked: bool = False) -> None:
        self.messages: list[str] = []
        self.blocked = blocked

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        if self.blocked:
            await anyio.sleep_forever()
        self.messages.append(message or "")


async def pumped(live: LiveOutput) -> None:
    live.finish()
    with anyio.fail_after(5):
        await live.pump()


async def test_what_does_not_fit_is_counted_and_said() -> None:
    reports = Reports()
    live = LiveOutput(reports, Pace(buffer=10))
    for _ in range(100):
        live.on_event(Output("stdout", b"0123456789"))
    await pumped(live)
    assert reports.messages == ["0123456789\n[990 characters are not shown live]\n"]


async def test_long_output_is_sent_in_pieces() -> None:
    reports = Reports()
    live = LiveOutput(reports, Pace(message=4))
    live.on_event(Output("stdout", b"abcdefghij"))
    await pumped(live)
    assert reports.messages == ["abcd", "efgh", "ij"]


async def test_a_character_cut_in_two_by_the_wire_is_whole() -> None:
    reports = Reports()
    live = LiveOutput(reports, Pace())
    live.on_event(Output("stdout", "ü".encode()[:1]))
    live.on_event(Output("stderr", b"!"))
    live.on_event(Output("stdout", "ü".encode()[1:] + b"\xff\x1b[2J"))
    await pumped(live)
    assert reports.messages == ["!ü\ufffd\\x1b[2J"]


async def test_a_client_that_reads_nothing_does_not_hold_up_the_run() -> None:
    live = LiveOutput(Reports(blocked=True), Pace())
    with anyio.move_on_after(5) as limit:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(live.pump)
            for _ in range(10_000):
                live.on_event(Output("stdout", b"x" * 1000))
            live.finish()
            tasks.cancel_scope.cancel()
    assert not limit.cancelled_caught


async def test_a_silent_run_gives_a_sign_of_life() -> None:
    reports = Reports()
    live = LiveOutput(reports, Pace(heartbeat=0.01, interval=0.01))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(live.pump)
            while len(reports.messages) < 3:
                await anyio.lowlevel.checkpoint()
            live.finish()
    assert set(reports.messages) == {""}


@pytest.mark.parametrize("error", [RuntimeError("broken"), anyio.BrokenResourceError()])
async def test_a_failing_report_ends_the_reports_not_the_run(error: Exception) -> None:
    async def report(progress: float, total: float | None, message: str | None) -> None:
        raise error

    live = LiveOutput(report, Pace())
    live.on_event(Output("stdout", b"x"))
    await pumped(live)


async def test_a_call_is_told_where_it_stands_in_the_queue_and_in_its_session(era: str) -> None:
    seen = Seen()

    async def script(request: RunRequest, on_event: OnEvent) -> RunResult:
        for event in (Queued(2, turn=True), Queued(3)):
            on_event(event)
            seen.arrived = anyio.Event()
            await seen.arrived.wait()
        return OK

    async with connect(build_server(FakeExecutor(script=script), version="0"), era) as client:
        with anyio.fail_after(5):
            await client.call_tool("code_execution", {"code": "1"}, progress_callback=seen)
    assert seen.messages == [
        "waiting for its turn in the session, position 2",
        "waiting for a sandbox, position 3",
    ]
