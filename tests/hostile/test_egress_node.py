# ruff: noqa: E501 - programs in strings
"""Node.js and its way out: `http`, `https` and `fetch` find the proxy by themselves, and get no further than it."""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.access.egress.world import SITE
from tests.hostile.egress_place import Egress

pytestmark = pytest.mark.anyio

LOOK = """
const look = async (url) => {
  const fetched = await fetch(url).then((a) => a.text(), (e) => `${e.cause?.code} ${e.cause?.message}`);
  const got = await new Promise((done) => require(url.split(':')[0]).get(url, (a) => { let s = ''; a.on('data', (d) => { s += d; }).on('end', () => done(s)); })
    .on('error', (e) => done(`${e.code} ${e.message}`)));
  console.log(fetched); console.log(got);
};
"""


async def looked(egress: Egress, *urls: str, connection: str | None = None, before: str = "") -> list[str]:
    calls = "".join(f"await look('{url}');" for url in urls)
    result = await egress.lab.run(
        f"{LOOK}{before}(async () => {{ {calls} process.exit(0); }})()",
        "javascript",
        wall=20,
        connection=connection,
    )
    return result.stdout.text.splitlines() or [result.stderr.text]


async def test_what_the_policy_allows_is_reached_and_what_it_denies_is_told_with_the_reason(
    egress: Egress,
) -> None:
    plain, secure = await egress.world.origin(), await egress.world.origin(tls=SITE)
    egress.world.allow(SITE, plain.port)
    egress.world.allow(SITE, secure.port)
    allowed = await looked(egress, f"http://{SITE}:{plain.port}/", f"https://{SITE}:{secure.port}/")
    assert allowed == ["hi"] * 4
    for line in await looked(egress, "http://other.example.com/", "https://other.example.com/"):
        assert line.startswith(
            "EPROXY 403 Denied by the sandbox's egress policy (default): no rule allows other"
        )
    assert set(egress.world.lookups) == {SITE}


async def test_what_is_in_the_sandbox_itself_is_reached_without_the_proxy(egress: Egress) -> None:
    before = "require('http').createServer((_, a) => a.end('mine')).listen(8765, '127.0.0.1');"
    assert (
        await looked(egress, "http://127.0.0.1:8765/", "http://localhost:8765/", before=before)
        == ["mine"] * 4
    )
    assert egress.world.asked == []


EXCEPTIONS = {"none": "''", "all": "'*'", "another": "'other.example.com'"}


@pytest.mark.parametrize("said", EXCEPTIONS.values(), ids=EXCEPTIONS)
async def test_whatever_a_program_makes_of_the_exceptions_the_proxy_itself_is_reached_directly(
    egress: Egress, said: str
) -> None:
    origin = await egress.world.origin()
    egress.world.allow(SITE, origin.port)
    before = f"process.env.NO_PROXY = process.env.no_proxy = {said};"
    lines = await looked(egress, f"http://{SITE}:{origin.port}/", before=before)
    if said == "'*'":
        assert [line.split()[0] for line in lines] == ["EAI_AGAIN"] * 2, "there is no other way"
    else:
        assert lines == ["hi"] * 2


async def test_in_a_session_it_goes_on_in_every_cell(egress: Egress) -> None:
    origin = await egress.world.origin(tls=SITE)
    egress.world.allow(SITE, origin.port)
    connection = uuid4().hex
    for _ in range(2):
        result = await egress.lab.run(
            f"await (await fetch('https://{SITE}:{origin.port}/')).text()",
            "javascript",
            wall=20,
            connection=connection,
        )
        assert (result.outcome, result.value) == ("ok", "'hi'"), result.stderr.text
    await egress.lab.manager.close_connection(connection)


async def test_without_a_way_out_node_is_as_it_was(egress: Egress) -> None:
    result = await egress.lab.run(
        "console.log(process.env.NODE_OPTIONS, String(fetch).length > 0)", "javascript-inside"
    )
    assert result.stdout.text == "undefined true\n"
