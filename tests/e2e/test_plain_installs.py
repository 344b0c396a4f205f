# ruff: noqa: E501 - programs in strings
"""Plain `pip install` and `npm install` of a program: what is installed, what runs meanwhile, and what stays on the
host. The index is the test's own and counts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox_server.access.egress import Connect
from sandbox_server.access.egress.cache import FileCache
from sandbox_server.access.egress.indexes import NPM, PYTHON, Indexes
from sandbox_server.access.egress.trust import sandbox_bundle
from sandbox_server.execution.api import Caller
from sandbox_server.execution.models import RunLimits, RunRequest
from sandbox_server.guards.web import EgressGrant
from sandbox_server.policy.loader import parse_policy
from tests.access.egress.package_place import judged
from tests.access.egress.test_indexes import HELP
from tests.access.egress.world import SITE
from tests.e2e.registry import SDIST, WHEEL, Registry
from tests.hostile.egress_place import Egress, open_egress

pytestmark = pytest.mark.anyio

POLICY = """
schema: sandbox-policy/v1
roles: {{basic: {{tools: {{allow: [code_execution]}}, code: {{egress: web, languages: {{python: {{}}}}}}}}}}
egress:
  profiles:
    web: {{allow: [{{hosts: ["{site}"], ports: [{port}], terminate: true, addresses: ["127.0.0.1/32"], paths: {paths}}}]}}
"""
PIP = "import os, subprocess as s; {before}print(s.run(['pip', 'install', '--retries=0', *{args}], stdout=2).returncode, os.path.exists('/workspace/built'))"
NPM_INSTALL = "const r = require('child_process').spawnSync('npm', ['install', '--fetch-retries=0', ...{args}], {{encoding: 'utf8'}}); console.error(r.stdout, r.stderr); console.log(r.status, require('fs').existsSync('/workspace/ran'))"


@dataclass
class Place:
    egress: Egress
    registry: Registry
    port: int

    async def run(self, code: str, language: str = "python", *packages: str) -> tuple[str, str]:
        request = RunRequest(language, code, limits=RunLimits(wall=30), packages=packages)
        result = await self.egress.lab.manager.run(request, caller=Caller(), on_event=lambda _: None)
        return result.stdout.text.strip(), result.stderr.text

    async def pip(self, *args: str, before: str = "") -> tuple[str, str]:
        return await self.run(PIP.format(args=list(args), before=before))

    async def npm(self, *args: str) -> tuple[str, str]:
        return await self.run(NPM_INSTALL.format(args=list(args)), "javascript")


@pytest.fixture
async def place(shared: Place, tmp_path: Path) -> AsyncIterator[Place]:
    """The index is both pip's and npm's own, by the environment, and nothing of it is kept yet."""
    world, registry = shared.egress.world, shared.registry
    world.clear()
    registry.asked.clear()
    world.gateway.environment = {
        "PIP_INDEX_URL": f"{registry.base}/simple/",
        "npm_config_registry": f"{registry.base}/",
    }
    world.gateway.cache = FileCache(tmp_path)
    world.allow(SITE, shared.port, terminate=True, cache=True)
    before = world.gateway._judge
    yield shared
    world.gateway._judge, world.gateway.environment, world.gateway.cache = before, {}, None


@pytest.fixture(scope="module")
async def shared(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    async with open_egress(tmp_path_factory.mktemp("installs")) as egress:
        registry = Registry()
        origin = await egress.world.origin(tls=SITE, handler=registry.handler)
        registry.base = f"https://{SITE}:{origin.port}"
        egress.world.gateway.trust = sandbox_bundle(b"", egress.world.authority)
        yield Place(egress, registry, origin.port)


async def test_the_second_plain_install_of_a_wheel_comes_from_this_host(place: Place) -> None:
    for _ in range(2):
        said, complaint = await place.pip("demo-wheel")
        assert said == "0 False", complaint
    assert place.registry.asked[f"/files/{WHEEL}"] == 1
    assert place.registry.asked["/simple/demo-wheel/"] == 2


async def test_the_second_plain_install_of_an_npm_package_comes_from_this_host(place: Place) -> None:
    for _ in range(2):
        said, complaint = await place.npm("demo-npm")
        assert said == "0 false", complaint
    assert place.registry.asked["/demo-npm/-/demo-npm-1.0.0.tgz"] == 1


async def test_a_project_that_exists_only_as_source_is_neither_fetched_nor_built(place: Place) -> None:
    said, complaint = await place.pip("demo-source")
    assert said == "1 False"
    assert "No matching distribution" in complaint
    assert place.registry.asked[f"/files/{SDIST}"] == 0


UNSET = "del os.environ['PIP_ONLY_BINARY']; "
NO_ISOLATION = ("--no-build-isolation", "demo-source")


async def test_a_program_that_wants_to_build_source_does_so_as_its_own_code(place: Place) -> None:
    """Its environment is its own: what is built runs in the sandbox, with what the sandbox may do."""
    await place.pip(*NO_ISOLATION, before=UNSET)
    assert place.registry.asked[f"/files/{SDIST}"] == 1


async def test_rules_for_paths_hold_wheels_only_against_the_program_too(place: Place) -> None:
    paths = '["/simple/**", "/**/*.whl", "/**/*.whl.metadata"]'
    policy = parse_policy(POLICY.format(site=SITE, port=place.port, paths=paths).encode(), source="test")

    def judge(connect: Connect) -> EgressGrant:
        return judged(policy, connect)

    place.egress.world.gateway._judge = judge
    said, complaint = await place.pip("demo-wheel")
    assert said == "0 False", complaint
    said, complaint = await place.pip(*NO_ISOLATION, before=UNSET)
    assert said == "1 False"
    assert "403" in complaint
    assert place.registry.asked[f"/files/{SDIST}"] == 0


async def test_scripts_of_npm_packages_run_only_for_a_program_that_asks_for_it(place: Place) -> None:
    said, complaint = await place.npm("demo-npm")
    assert said == "0 false", complaint
    said, complaint = await place.npm("--ignore-scripts=false", "demo-npm")
    assert said == "0 true", complaint


async def test_npms_settings_for_the_place_where_packages_go_do_not_hold(place: Place) -> None:
    trap = "const f = require('fs'), d = '/workspace/.packages'; f.mkdirSync(d, {recursive: true}); f.writeFileSync(d + '/.npmrc', 'dry-run=true')"
    manager, caller = place.egress.lab.manager, Caller(connection="settings")
    try:
        await manager.run(RunRequest("javascript", trap), caller=caller, on_event=lambda _: None)
        use = RunRequest("javascript", "console.log(require('demo-npm'))", packages=("demo-npm",))
        result = await manager.run(use, caller=caller, on_event=lambda _: None)
    finally:
        await manager.close_connection("settings")
    assert (result.outcome, result.stdout.text) == ("ok", "42\n"), result.stderr.text


def tools(further: Mapping[str, str], base: str) -> Indexes:
    """pip and npm of a host whose own index has nothing, and whose further ones are `further`."""

    def ask(command: Sequence[str], environment: Mapping[str, str]) -> str:
        words = " ".join(command)
        if words.endswith("config list"):
            return further["npm" if "npm" in command[0] else "pip"]
        if "--help" in words:
            return HELP.format(f"{base}/empty/")
        if "--report" in words:
            return f'{{"install": [{{"download_info": {{"url": "{base}/x.whl"}}}}]}}'
        return f"{base}/empty/" if "get registry" in words else f"{base}/n.tgz"

    return Indexes(Path("/nowhere"), ask=ask)


async def test_further_indexes_and_registries_of_scopes_are_used_by_plain_installs_and_packages(
    place: Place,
) -> None:
    base = place.registry.base
    further = {"pip": f"global.extra-index-url='{base}/simple/'", "npm": f'@scope:registry = "{base}/"'}
    indexes = tools(further, base)
    assert indexes.resolve(PYTHON) == indexes.resolve(NPM) == (f"{SITE}:{place.port}",)
    place.egress.world.gateway.environment = indexes.environment
    said, complaint = await place.pip("demo-wheel")
    assert said == "0 False", complaint
    assert place.registry.asked["/empty/demo-wheel/"] == 1
    said, complaint = await place.npm("@scope/demo-npm")
    assert said == "0 false", complaint
    assert place.registry.asked["/@scope/demo-npm"] == 1
    said, complaint = await place.run("import demo_wheel; print(demo_wheel.answer)", "python", "demo-wheel")
    assert said == "42", complaint
    said, complaint = await place.run(
        "console.log(require('@scope/demo-npm'))", "javascript", "@scope/demo-npm"
    )
    assert said == "42", complaint


async def test_a_further_index_that_the_policy_does_not_open_is_a_clear_denial(place: Place) -> None:
    elsewhere = "https://elsewhere.example.com/simple/"
    place.egress.world.gateway.environment = {"PIP_INDEX_URL": elsewhere}
    said, complaint = await place.pip("--retries=1", "demo-wheel")
    assert said == "1 False"
    assert "no rule allows elsewhere.example.com:443" in complaint
