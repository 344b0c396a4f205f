"""Each hop is told of after its end: what was judged, by which rule, and what came of it."""

from __future__ import annotations

import anyio
import pytest

from sandbox_server.access.http.models import HopRecord
from sandbox_server.errors import Busy, PolicyDenied, UpstreamFailed
from sandbox_server.guards.web import WebLimits
from tests.access.http.lab import HOST, Seen, Server, allow, answer, client, fetch, routes, serve

pytestmark = pytest.mark.anyio


def what(records: list[HopRecord]) -> list[tuple[int, str, str, str, int]]:
    return [(each.number, each.verdict, each.rule, each.reason, each.status) for each in records]


async def test_each_hop_of_a_redirect_is_one_with_the_bytes_of_its_own() -> None:
    told: list[HopRecord] = []
    script = routes(a=answer("", "302 X", Location="/b?key=private"), b=answer("x" * 1000))
    async with serve(script) as server:
        await fetch(
            f"http://{HOST}:{server.port}/a", allow(host="*.example.org"), by=client(on_hop=told.append)
        )
    assert what(told) == [(0, "allowed", "test", "", 302), (1, "allowed", "test", "", 200)]
    assert [each.url for each in told] == [f"http://{HOST}:{server.port}/{path}" for path in "ab"]
    assert {(each.principal, each.host, each.port, each.pattern, each.address) for each in told} == {
        ("alice", HOST, server.port, "*.example.org", "127.0.0.1")
    }
    assert told[1].bytes_in > 1000 > told[0].bytes_in > 0
    for each, request in zip(told, server.seen, strict=True):
        assert each.bytes_out == len(request.head) + len("\r\n\r\n"), "all of what the server has seen"


async def test_a_hop_that_is_denied_is_told_with_the_host_that_was_judged() -> None:
    told: list[HopRecord] = []
    async with serve(answer("", "302 X", Location="http://other.test/")) as server:
        with pytest.raises(PolicyDenied):
            await fetch(f"http://{HOST}:{server.port}/", by=client(on_hop=told.append))
    assert what(told) == [(0, "allowed", "test", "", 302), (1, "denied", "default", "default", 0)]
    assert (told[1].host, told[1].address, told[1].bytes_out, told[1].pattern) == ("other.test", "", 0, "")


async def test_a_request_was_allowed_also_if_where_it_leads_is_not() -> None:
    told: list[HopRecord] = []
    async with serve(answer("", "307 X", Location="http://other.test/")) as server:
        with pytest.raises(PolicyDenied):
            await fetch(
                f"http://{HOST}:{server.port}/", method="PUT", body=b"mine", by=client(on_hop=told.append)
            )
    assert what(told) == [(0, "allowed", "test", "floor.body_across_origins", 307)]
    assert told[0].bytes_out > 4


async def test_an_address_that_is_denied_is_the_hops_rule() -> None:
    told: list[HopRecord] = []
    with pytest.raises(PolicyDenied):
        await fetch(f"http://{HOST}/", allow(addresses=()), by=client(on_hop=told.append))
    assert what(told) == [(0, "denied", "floor.address", "floor.address", 0)]


async def test_a_rule_whose_rate_is_used_up_is_told_by_its_name() -> None:
    told: list[HopRecord] = []
    async with serve(answer()) as server:
        by, judge = client(on_hop=told.append), allow(rate=(1, 60.0), host="*.example.test")
        await fetch(f"http://{HOST}:{server.port}/", judge, by=by)
        with pytest.raises(Busy):
            await fetch(f"http://{HOST}:{server.port}/", judge, by=by)
    assert what(told)[1] == (0, "failed", "test", "busy", 0)
    assert told[1].pattern == "*.example.test"


async def test_what_fails_is_told_with_its_cause() -> None:
    told: list[HopRecord] = []
    by = client(on_hop=told.append)

    async def silent(seen: Seen, stream: anyio.abc.ByteStream) -> None:
        await anyio.sleep_forever()

    async with serve(answer(status="999 X")) as server:
        with pytest.raises(UpstreamFailed):
            await fetch(f"http://{HOST}:{server.port}/", by=by)
    async with serve(silent) as server:
        with pytest.raises(UpstreamFailed):
            await fetch(f"http://{HOST}:{server.port}/", allow(limits=WebLimits(total=0.2)), by=by)
        with anyio.move_on_after(0.2):
            await fetch(f"http://{HOST}:{server.port}/", by=by)
    reasons = [(each.verdict, each.reason, each.status) for each in told]
    assert reasons == [
        ("failed", "web.protocol", 0),
        ("failed", "web.timeout", 0),
        ("failed", "cancelled", 0),
    ]


async def test_no_record_has_a_secret_that_was_sent() -> None:
    told: list[HopRecord] = []
    token = "s3cret-t0ken-of-the-operator"
    by = client(secrets={"gh_token": token}, on_hop=told.append)
    async with serve(answer("", "302 X", Location=f"/{token}")) as server:
        with pytest.raises(PolicyDenied):
            await fetch(f"http://{HOST}:{server.port}/{token}", allow(inject={"X-Key": "gh_token"}), by=by)
    assert [each.status for each in told] == [302]
    assert token not in str(told)


async def test_a_teller_that_breaks_changes_nothing_for_the_caller() -> None:
    def broken(record: HopRecord) -> None:
        raise RuntimeError("no disk")

    server: Server
    async with serve(answer("hi")) as server:
        result = await fetch(f"http://{HOST}:{server.port}/", by=client(on_hop=broken))
    assert result.body.text == "hi"
