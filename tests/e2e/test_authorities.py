# ruff: noqa: E501 - programs in strings
"""`egress.ca_bundle` and the deployment's own authority, believed by the tools that programs use, and only then."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest

from sandbox_server.access.egress.indexes import PYTHON, Indexes
from sandbox_server.access.egress.trust import BEGIN, host_roots
from sandbox_server.config import Settings
from sandbox_server.guards.web import EgressLimits
from sandbox_server.outside import Trust, trust_of
from sandbox_server.policy.loader import load_policy
from tests.access.egress.package_place import reserved
from tests.access.egress.world import SITE, Origin
from tests.e2e.registry import COMMIT, Registry
from tests.hostile.egress_place import Egress, open_egress

pytestmark = pytest.mark.anyio

POLICY = """
schema: sandbox-policy/v1
roles: {{basic: {{code: {{egress: site, languages: {{python: {{}}}}}}}}}}
egress:
  profiles: {{site: {{allow: [{{hosts: [{host}], terminate: true}}]}}}}
{extra}
"""
RUN = "const run = (file, ...args) => console.log(require('child_process').spawnSync(file, args, {encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit']}).stdout.trim());\n"
TOOLS = {
    "curl": ("bash", "curl -sS BASE/", "hello"),
    "git": ("bash", "git ls-remote BASE/repo.git refs/heads/main | cut -c-40", COMMIT),
    "urllib": ("python", "import urllib.request; print(urllib.request.urlopen('BASE/', timeout=10).read().decode())", "hello"),
    "ssl": (
        "python",
        "import http.client, os, ssl; from urllib.parse import urlsplit\n"
        "proxy, site = urlsplit(os.environ['HTTPS_PROXY']), urlsplit('BASE/')\n"
        "c = http.client.HTTPSConnection(proxy.hostname, proxy.port, context=ssl.create_default_context()); c.set_tunnel(site.hostname, site.port)\n"
        "c.request('GET', '/'); print(c.getresponse().read().decode())",
        "hello",
    ),
    "pip": (
        "python",
        "import subprocess, sys; subprocess.run(['pip', 'install', '--retries=0', '--index-url=BASE/simple/', 'demo-wheel'], stdout=2)\n"
        "subprocess.run([sys.executable, '-c', 'import demo_wheel; print(demo_wheel.answer)'])",
        "42",
    ),
    "node https": ("javascript", "require('https').get('BASE/', (answer) => answer.on('data', (data) => console.log(String(data))))", "hello"),
    "node fetch": ("javascript", "fetch('BASE/').then((answer) => answer.text()).then(console.log)", "hello"),
    "npm": ("javascript", RUN + "run('npm', 'view', '--fetch-retries=0', '--registry=BASE/', 'demo-npm', 'version')", "1.0.0"),
}  # fmt: skip


@dataclass
class Place:
    egress: Egress
    registry: Registry
    origin: Origin
    bundled: Trust
    """Of a policy that names the authority that has signed the site's certificate."""
    unbundled: Trust

    def trusts(self, trust: Trust) -> None:
        gateway = self.egress.world.gateway
        gateway.trust, gateway.tls, gateway.authority = trust.bundle, trust.tls, trust.authority

    async def outcome(self, tool: str) -> tuple[str, str]:
        language, code, _ = TOOLS[tool]
        code = code.replace("BASE", self.registry.base)
        result = await self.egress.lab.run(code, language, bare=True, wall=30)
        return result.stdout.text.strip(), result.stderr.text


@pytest.fixture(scope="module")
async def place(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    directory = tmp_path_factory.mktemp("authorities")
    async with open_egress(directory) as egress:
        registry = Registry()
        origin = await egress.world.origin(tls=SITE, handler=registry.handler)
        registry.base = f"https://{SITE}:{origin.port}"
        (directory / "extra.pem").write_bytes(egress.world.public.pem)
        trusts = []
        for extra in (f"  ca_bundle: {directory}/extra.pem", ""):
            policy = directory / "policy.yaml"
            policy.write_text(POLICY.format(host=SITE, extra=extra))
            trusts.append(trust_of(Settings(policy, directory / "state"), load_policy(policy)))
        yield Place(egress, registry, origin, *trusts)


@pytest.fixture(autouse=True)
def clear(place: Place) -> None:
    place.egress.world.clear()
    place.egress.world.limits = EgressLimits()


@pytest.mark.parametrize("tool", TOOLS)
async def test_an_authority_of_the_bundle_is_believed_end_to_end(place: Place, tool: str) -> None:
    place.egress.world.allow(SITE, place.origin.port)
    place.trusts(place.bundled)
    said, complaint = await place.outcome(tool)
    assert said == TOOLS[tool][2], complaint
    records = place.egress.world.records
    await place.egress.lab.until(lambda: len(records) > 0)  # the server may hear of the end after the program
    assert {record.method for record in records} == {None}


@pytest.mark.parametrize("tool", TOOLS)
async def test_without_it_no_tool_connects(place: Place, tool: str) -> None:
    place.egress.world.allow(SITE, place.origin.port)
    place.trusts(place.unbundled)
    asked = place.registry.asked.total()
    said, complaint = await place.outcome(tool)
    assert TOOLS[tool][2] not in said
    assert "certificate" in (said + complaint).lower()
    assert place.registry.asked.total() == asked


@pytest.mark.parametrize("tool", TOOLS)
async def test_the_deployments_own_authority_is_believed_where_tls_is_opened(place: Place, tool: str) -> None:
    place.egress.world.allow(SITE, place.origin.port, terminate=True)
    place.trusts(place.bundled)
    said, complaint = await place.outcome(tool)
    assert said == TOOLS[tool][2], complaint
    records = place.egress.world.records
    await place.egress.lab.until(lambda: "GET" in {record.method for record in records})


async def test_where_tls_is_opened_the_proxy_believes_the_bundle_and_nobody_else(place: Place) -> None:
    place.egress.world.allow(SITE, place.origin.port, terminate=True)
    place.trusts(place.unbundled)
    said, complaint = await place.outcome("curl")
    assert "502" in said + complaint or "egress_failed" in said, (said, complaint)


@pytest.mark.parametrize("tool", ["curl", "urllib", "node fetch"])
async def test_public_authorities_are_believed_beside_the_extra_one(
    place: Place, tool: str, tmp_path: Path
) -> None:
    """The real index, end to end: its certificate is what this host's own authorities have signed."""
    host = Indexes(tmp_path).resolve(PYTHON)[0]
    world = place.egress.world
    world.allow(host, 443, addresses=tuple(ip_network(each) for each in reserved((host,))))
    world.names[host] = [list({str(each[4][0]) for each in socket.getaddrinfo(host, 443, socket.AF_INET)})]
    place.trusts(place.bundled)
    language, code, _ = TOOLS[tool]
    code = code.replace("BASE/", f"https://{host}/simple/six/")
    result = await place.egress.lab.run(code, language, bare=True, wall=30)
    assert "six-1.17.0" in result.stdout.text, result.stderr.text


async def test_the_file_has_the_hosts_authorities_the_extra_ones_and_the_deployments_own(
    place: Place,
) -> None:
    place.trusts(place.bundled)
    names = (
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "PIP_CERT",
        "NODE_EXTRA_CA_CERTS",
        "CURL_CA_BUNDLE",
        "GIT_SSL_CAINFO",
        "npm_config_cafile",
    )
    code = f"import os; print(*{{os.environ[name] for name in {names}}}, open(os.environ['SSL_CERT_FILE']).read().count('{BEGIN}'))"
    result = await place.egress.lab.run(code, bare=True)
    path, count = result.stdout.text.split()
    assert path.startswith("/tmp/")
    assert int(count) == host_roots().count(BEGIN.encode()) + 2
