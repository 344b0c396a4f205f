"""A database that keeps its connections and says nothing more: every call ends all the same, and soon."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute

from sandbox_server.access.database.databases import Databases, Query
from sandbox_server.errors import Busy, ChangeUndecided, DatabaseUnavailable, LimitExceeded
from tests.access.database.support import ME, Place, databases

pytestmark = pytest.mark.anyio
SOON = 12.0
"""Seconds: the limits of these tests are one each, and giving up a connection takes up to five more."""


class Relay:
    """Stands between us and a database until it falls silent. `until` is what it no longer passes on."""

    def __init__(self, server: Place) -> None:
        self._server = server
        self.silent = False
        self.until = b"\0never\0"

    async def carry(self, client: ByteStream) -> None:
        assert self._server.server is not None
        upstream = await anyio.connect_tcp(self._server.server.host, self._server.server.port)
        async with client, upstream, anyio.create_task_group() as tasks:

            async def pump(source: ByteStream, sink: ByteStream) -> None:
                try:
                    while True:
                        data = await source.receive()
                        self.silent = self.silent or self.until in data
                        if not self.silent:
                            await sink.send(data)
                except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                    if not self.silent:
                        tasks.cancel_scope.cancel()

            tasks.start_soon(pump, client, upstream)
            tasks.start_soon(pump, upstream, client)


@asynccontextmanager
async def relayed(place: Place) -> AsyncIterator[tuple[Relay, Place]]:
    relay = Relay(place)
    assert place.server is not None
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, relay.carry)
        port = listener.extra(SocketAttribute.local_port)
        dsn = place.dsn.replace(f":{place.server.port}", f":{port}")
        yield relay, Place(place.dialect, dsn, place.server)
        tasks.cancel_scope.cancel()


@pytest.fixture(params=["postgres", "mysql"])
async def silenced(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Relay, Place]]:
    name = {"postgres": "postgres_place", "mysql": "mariadb_place"}[request.param]
    async with relayed(request.getfixturevalue(name)) as both:
        yield both


@asynccontextmanager
async def opened(place: Place, **changes: object) -> AsyncIterator[Databases]:
    limits: Any = {"time": 1.0, "connect": 1.0, "wait": 1.0} | changes
    made = databases(place, place.settings(**limits), blind=True)
    try:
        yield made
    finally:
        with anyio.fail_after(SOON):
            await made.aclose()


async def test_one_that_never_answers_at_all_is_unavailable(silenced: tuple[Relay, Place]) -> None:
    relay, place = silenced
    relay.silent = True
    async with opened(place) as there:
        with anyio.fail_after(SOON), pytest.raises(DatabaseUnavailable):
            await there.query(Query("SELECT 1"), caller=ME)


async def test_one_that_falls_silent_between_two_calls_is_unavailable(silenced: tuple[Relay, Place]) -> None:
    relay, place = silenced
    async with opened(place) as there:
        await there.query(Query("SELECT 1"), caller=ME)
        relay.silent = True
        with anyio.fail_after(SOON), pytest.raises((DatabaseUnavailable, LimitExceeded)):
            await there.query(Query("SELECT 1"), caller=ME)
        relay.silent = False
        answer = await there.query(Query("SELECT 1"), caller=ME)
        assert answer.rows == ((1,),)


async def test_a_caller_may_leave_one_that_fell_silent(silenced: tuple[Relay, Place]) -> None:
    relay, place = silenced
    async with opened(place, time=60.0) as there:
        await there.query(Query("SELECT 1"), caller=ME)
        relay.silent = True
        with anyio.fail_after(SOON):
            with anyio.move_on_after(0.2) as left:
                await there.query(Query("SELECT 1"), caller=ME)
        assert left.cancelled_caught


async def test_a_commit_that_is_not_answered_is_told_as_undecided(silenced: tuple[Relay, Place]) -> None:
    relay, place = silenced
    rules = place.rules(mode="write")
    async with opened(place, rules=rules) as there:
        await there.query(Query("SELECT 1"), caller=ME)
        relay.until = b"COMMIT"
        with anyio.fail_after(SOON), pytest.raises(ChangeUndecided):
            await there.query(
                Query("UPDATE customers SET tier = 1 WHERE id = 1", operation="update"), caller=ME
            )


async def test_many_who_wait_for_a_silent_schema_do_not_wait_one_after_the_other(
    silenced: tuple[Relay, Place],
) -> None:
    relay, place = silenced
    relay.silent = True
    told: list[type] = []
    async with opened(place) as there:

        async def ask() -> None:
            try:
                await there.schema("shop", caller=ME)
            except (DatabaseUnavailable, Busy) as error:
                told.append(type(error))

        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(ask)
    assert len(told) == 20
