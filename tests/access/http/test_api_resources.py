"""Declared resources: fetched by the rules, kept for a while, for one principal at a time."""

from __future__ import annotations

import pytest

from sandbox_server.access.http.resources import ApiResource, ApiResources
from sandbox_server.errors import NotFound, PolicyDenied
from sandbox_server.guards.urls import parse_url
from tests.access.http.lab import HOST, Seen, Server, allow, answer, client, raw, serve

SECRETS = {"key": "0123456789abcdef"}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def resources(server: Server, clock: Clock, ttl: float = 60, **headers: str) -> ApiResources:
    declared = ApiResource("status", parse_url(f"http://{HOST}:{server.port}/status"), headers, ttl)
    return ApiResources(client(secrets=SECRETS), [declared], clock)


async def test_an_answer_is_kept_for_its_time_and_for_its_principal() -> None:
    clock = Clock()
    async with serve(answer("up")) as server:
        api = resources(server, clock)
        for principal in ("alice", "alice", "bob"):
            assert (await api.read("status", allow(), principal=principal)).body.text == "up"
        assert server.connections == 2
        clock.now += 60
        await api.read("status", allow(), principal="alice")
    assert server.connections == 3
    assert [each.name for each in api.list()] == ["status"]


async def test_a_rule_that_is_gone_denies_also_what_is_kept() -> None:
    async with serve(answer("up")) as server:
        api = resources(server, Clock())
        await api.read("status", allow(), principal="alice")
        with pytest.raises(PolicyDenied):
            await api.read("status", allow("other.example.test"), principal="alice")


async def test_an_answer_got_by_one_rule_is_not_given_by_another() -> None:
    """Whoever is the same today as yesterday may have other roles, and another rule has other secrets."""
    async with serve(answer("up")) as server:
        api = resources(server, Clock())
        for rule in ("admin", "plain", "plain"):
            await api.read("status", allow(rule=rule), principal="alice")
    assert server.connections == 2


@pytest.mark.parametrize("status", ["500 X", "404 X"])
async def test_a_failure_is_not_kept(status: str) -> None:
    async with serve(answer("down", status)) as server:
        api = resources(server, Clock())
        for _ in range(2):
            await api.read("status", allow(), principal="alice")
    assert server.connections == 2


async def test_without_a_ttl_nothing_is_kept() -> None:
    async with serve(answer()) as server:
        api = resources(server, Clock(), ttl=0)
        for _ in range(2):
            await api.read("status", allow(), principal="alice")
    assert server.connections == 2


async def test_its_secret_goes_to_its_origin_alone() -> None:
    async with serve(answer()) as other:
        location = f"http://{HOST}:{other.port}/"
        async with serve(raw(f"HTTP/1.1 302 X\r\nLocation: {location}\r\n\r\n".encode())) as server:
            api = resources(server, Clock(), **{"X-Key": "secret://key", "Accept": "text/plain"})
            await api.read("status", allow(), principal="alice")
    first: Seen = server.seen[0]
    assert (first.header("x-key"), first.header("accept")) == (SECRETS["key"], "text/plain")
    assert other.seen[0].header("x-key") is None


async def test_an_unknown_one_is_not_found() -> None:
    async with serve(answer()) as server:
        with pytest.raises(NotFound):
            await resources(server, Clock()).read("other", allow(), principal="alice")
