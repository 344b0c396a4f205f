"""Tunnels on the wire: a runner that does as it may, and one that does not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import anyio
import pytest
from anyio.abc import ByteStream

from sandbox_server import wire
from sandbox_server.engines.fake import FakeEngine
from sandbox_server.errors import ConfigError
from sandbox_server.execution import tunnels
from sandbox_server.execution.api import Caller
from sandbox_server.execution.sandbox import Sandbox
from sandbox_server.wire import Frame, Type
from tests.execution.support import capture, job, managed, opened, request, say, start

pytestmark = pytest.mark.anyio
FIRST = wire.FIRST_TUNNEL


class Outlet:
    """Echoes, unless it is told otherwise."""

    tunnels = 2
    trust = b""
    cached = 0
    environment: ClassVar[dict[str, str]] = {}

    def __init__(self) -> None:
        self.served: list[ByteStream] = []
        self.ended = 0
        self.handler: Callable[[ByteStream], Any] = self._echo

    async def serve(self, tunnel: ByteStream) -> None:
        self.served.append(tunnel)
        try:
            await self.handler(tunnel)
        finally:
            self.ended += 1

    async def _echo(self, tunnel: ByteStream) -> None:
        while True:
            await tunnel.send(await tunnel.receive())


class Place:
    def __init__(self, container: Any, sandbox: Sandbox, outlet: Outlet) -> None:
        self.container = container
        self.sandbox = sandbox
        self.outlet = outlet
        self.heard: list[Frame] = []

    async def say(self, *frames: bytes) -> None:
        await say(self.container, b"".join(frames))
        await anyio.wait_all_tasks_blocked()

    def told(self, kind: Type, number: int = FIRST) -> list[bytes]:
        return [frame.payload for frame in self.heard if (frame.type, frame.channel) == (kind, number)]


@asynccontextmanager
async def running(monkeypatch: pytest.MonkeyPatch, slot: float = 0.0) -> AsyncIterator[Place]:
    """A run with a way out goes on; every frame that the host sends is kept. `slot`: see `SLOT_SECONDS`."""
    monkeypatch.setattr(tunnels, "SLOT_SECONDS", slot)
    container = await start(FakeEngine())
    async with opened(container) as sandbox, anyio.create_task_group() as tasks:
        place = Place(container, sandbox, Outlet())
        decoder = wire.Decoder(wire.MAX_FROM_HOST)
        feed = container.runner.feed

        def listen(data: bytes) -> None:
            place.heard += list(decoder.feed(data))
            feed(data)

        monkeypatch.setattr(container.runner, "feed", listen)
        tasks.start_soon(sandbox.run, job("wait"), capture(), None, place.outlet)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(10):
            yield place
        tasks.cancel_scope.cancel()


def accept(number: int = FIRST) -> bytes:
    return wire.encode(Type.ACCEPT, number)


def data(size: int, number: int = FIRST) -> bytes:
    pieces = [min(wire.MAX_FROM_RUNNER, size - at) for at in range(0, size, wire.MAX_FROM_RUNNER)]
    return b"".join(wire.encode(Type.DATA, number, b"x" * piece) for piece in pieces)


async def test_bytes_go_both_ways_with_credit(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as place:
        await place.say(accept(), data(40_000))
        assert place.told(Type.DATA) == [b"x" * 40_000]
        assert [int.from_bytes(each, "big") for each in place.told(Type.CREDIT)] == [40_000]
        await place.say(wire.encode_credit(FIRST, 40_000), wire.encode(Type.END, FIRST))
        assert place.outlet.ended == 1
        assert place.told(Type.CANCEL) == [b""]
        await place.say(wire.encode_json(Type.CLOSE, FIRST, {}))
        assert len(place.sandbox.way_out) == 0
        assert place.sandbox.alive


async def test_without_credit_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as place:

        async def pour(tunnel: ByteStream) -> None:
            await tunnel.send(b"y" * 200_000)

        place.outlet.handler = pour
        await place.say(accept())
        assert sum(map(len, place.told(Type.DATA))) == wire.TUNNEL_WINDOW
        await place.say(wire.encode_credit(FIRST, 1000))
        assert sum(map(len, place.told(Type.DATA))) == wire.TUNNEL_WINDOW + 1000


async def test_who_does_not_receive_holds_the_program_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as place:
        place.outlet.handler = lambda tunnel: anyio.sleep_forever()
        await place.say(accept(), data(wire.TUNNEL_WINDOW))
        assert place.told(Type.CREDIT) == []
        assert place.sandbox.alive


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(accept(FIRST) + accept(FIRST), id="a number twice"),
        pytest.param(accept(FIRST + 5) + accept(FIRST + 4), id="a number that goes back"),
        pytest.param(accept(1), id="a number of the host's") ,
        pytest.param(accept(FIRST) + accept(FIRST + 1) + accept(FIRST + 2), id="more than may be"),
        pytest.param(data(1, FIRST + 9), id="data on no tunnel"),
        pytest.param(accept() + data(wire.TUNNEL_WINDOW + 1), id="more than the credit"),
        pytest.param(accept() + wire.encode(Type.END, FIRST) + data(1), id="data after END"),
        pytest.param(accept() + wire.encode(Type.END, FIRST) * 2, id="END twice"),
        pytest.param(accept() + wire.encode_credit(FIRST, 1), id="credit for nothing"),
        pytest.param(accept() + wire.encode_credit(FIRST, 2**32 - 1), id="credit without end"),
        pytest.param(accept() + wire.encode(Type.STDOUT, FIRST, b"x"), id="output"),
        pytest.param(accept() + wire.encode(Type.CLOSE, FIRST) * 2, id="CLOSE twice"),
        pytest.param(accept() + wire.encode(Type.CANCEL, FIRST), id="our own words"),
    ],
)  # fmt: skip
async def test_a_runner_that_breaks_the_rules_of_tunnels_loses_its_sandbox(
    monkeypatch: pytest.MonkeyPatch, frames: bytes
) -> None:
    async with running(monkeypatch) as place:
        place.outlet.handler = lambda tunnel: anyio.sleep_forever()
        await place.say(frames)
        assert not place.sandbox.alive
        assert place.outlet.ended == len(place.outlet.served)


async def test_a_connection_without_a_grant_is_a_breach() -> None:
    container = await start(FakeEngine())
    async with opened(container) as sandbox, anyio.create_task_group() as tasks:
        tasks.start_soon(sandbox.run, job("wait"), capture())
        await say(container, accept())
        await anyio.wait_all_tasks_blocked()
        assert not sandbox.alive


async def test_who_resets_its_connections_in_a_loop_makes_them_no_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running(monkeypatch, slot=3600.0) as place:
        place.outlet.handler = lambda tunnel: anyio.sleep_forever()
        await place.say(accept(), wire.encode_json(Type.CLOSE, FIRST, {}))
        assert place.outlet.ended == 1
        assert (place.told(Type.CANCEL), len(place.sandbox.way_out)) == ([], 1)


async def test_the_runners_close_ends_whoever_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as place:
        place.outlet.handler = lambda tunnel: anyio.sleep_forever()
        await place.say(accept(), wire.encode_json(Type.CLOSE, FIRST, {}))
        assert place.outlet.ended == 1
        assert place.told(Type.CANCEL) == [b""]


async def test_the_end_of_the_run_ends_its_tunnels(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as place:
        place.outlet.handler = lambda tunnel: anyio.sleep_forever()
        await place.say(accept())
        assert place.outlet.ended == 0
        run = place.container.runner.running
        assert run is not None
        await place.sandbox._send(wire.encode(Type.CANCEL, 1))
        await anyio.wait_all_tasks_blocked()
        assert place.outlet.ended == 1
        assert place.sandbox.alive


async def test_an_outlet_that_fails_costs_its_connection_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as place:

        async def fail(tunnel: ByteStream) -> None:
            raise KeyError("a bug")

        place.outlet.handler = fail
        await place.say(accept())
        assert place.told(Type.CANCEL) == [b""]
        assert place.sandbox.alive


async def test_a_profile_that_nobody_serves_is_an_error_and_runs_nothing() -> None:
    engine = FakeEngine()
    async with managed(engine, egress="web") as manager:
        with pytest.raises(ConfigError, match="egress profile 'web'"):
            await manager.run(request("out hi"), caller=Caller(), on_event=lambda event: None)
        assert sum(container.runner.ran for container in engine.started) == 0
