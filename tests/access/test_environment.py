"""The row of the bypass list on the environment: a real server process that is started with all of it, each
variable pointing to something of its own, and an MCP client that calls it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme

from tests.access.doors import Canary
from tests.access.http.conftest import server_context
from tests.access.http.lab import Server, answer, serve
from tests.cgroups import remove_groups
from tests.cli.conftest import Deployment
from tests.cli.stdio import Peer, serving

pytestmark = pytest.mark.anyio

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
TRUSTED = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
OWN = "SANDBOX_SERVER_CA_BUNDLE"
POLICY = """
schema: sandbox-policy/v1
roles:
  basic:
    tools: {allow: [web_api, code_execution]}
    web: {allow: [{hosts: HOSTS, schemes: [http, https], addresses: ["127.0.0.1/32"]}]}
    code: {egress: site, languages: {python: {}}}
egress:
  profiles:
    site: {allow: [{hosts: HOSTS, addresses: ["127.0.0.1/32"]}]}
deployment: {warm: 0, sandboxes: 2}
"""
PROGRAM = """
import json, os, socket
from urllib.parse import urlsplit
where = urlsplit(os.environ["HTTP_PROXY"])
with socket.create_connection((where.hostname, where.port), 10) as s:
    s.sendall(b"GET http://127.0.0.1:PORT/ HTTP/1.0\\r\\nHost: 127.0.0.1:PORT\\r\\n\\r\\n")
    print(s.recv(1000).split()[1].decode())
print(json.dumps(dict(os.environ)))
"""


@dataclass
class Found:
    """What was seen of it."""

    directory: Path
    proxies: dict[str, int] = field(default_factory=dict)
    https: dict[str, dict[str, Any]] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)
    sandbox: list[str] = field(default_factory=list)
    site: Server = field(default_factory=Server)


@pytest.fixture(scope="module")
async def found(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Found]:
    directory: Path = tmp_path_factory.mktemp("environment")
    found = Found(directory)
    canaries = {name: Canary() for name in PROXIES}
    async with AsyncExitStack() as stack:
        stack.enter_context(anyio.fail_after(60))
        found.site = await stack.enter_async_context(serve(answer()))
        secure: dict[str, Server] = {}
        environ = {"SSLKEYLOGFILE": str(directory / "keys"), "NO_PROXY": "nowhere.example", "no_proxy": ""}
        for name in (*TRUSTED, OWN):
            authority = trustme.CA()
            tls = server_context(authority, "127.0.0.1")
            secure[name] = await stack.enter_async_context(serve(answer(), tls=tls))
            environ[name] = str(_kept(authority, directory / name, hashed=name == "SSL_CERT_DIR"))
        for name, canary in canaries.items():
            environ[name] = environ[name.lower()] = f"http://user:word@127.0.0.1:{canary.port}"
        netrc = directory / ".netrc"
        netrc.write_text("machine 127.0.0.1 login me password mine\ndefault login me password mine\n")
        netrc.chmod(0o600)
        environ |= {"HOME": str(directory), "NETRC": str(netrc)}
        hosts = [f"127.0.0.1:{each.port}" for each in (found.site, *secure.values())]
        policy = directory / "policy.yaml"
        policy.write_text(POLICY.replace("HOSTS", json.dumps(hosts)))
        deployment = Deployment(directory / "state", policy, None, environ)  # type: ignore[arg-type]
        try:
            async with serving(deployment.command("serve"), deployment.environ) as peer:
                found.plain = await _web(peer, f"http://{hosts[0]}/")
                for name, server in secure.items():
                    found.https[name] = await _web(peer, f"https://127.0.0.1:{server.port}/")
                done = await peer.execute(PROGRAM.replace("PORT", str(found.site.port)))
                found.sandbox = done["structuredContent"]["stdout"].splitlines()
                await peer.leave()  # killed, it would leave its containers to the next one
        finally:
            for instance in deployment.instances():
                remove_groups(instance)
        found.proxies = {name: canary.touched() for name, canary in canaries.items()}
        yield found
    for canary in canaries.values():
        canary.close()


def _kept(authority: trustme.CA, path: Path, *, hashed: bool) -> Path:
    """As a file, or as a directory that OpenSSL finds it in."""
    if not hashed:
        authority.cert_pem.write_to_path(str(path))
        return path
    path.mkdir()
    authority.cert_pem.write_to_path(str(path / "ca.pem"))
    subprocess.run(["openssl", "rehash", path], check=True)
    return path


async def _web(peer: Peer, url: str) -> dict[str, Any]:
    arguments = {"method": "GET", "url": url}
    told = await peer.request("tools/call", {"name": "web_api", "arguments": arguments})
    facts: dict[str, Any] = told["structuredContent"]
    return facts


@pytest.mark.parametrize("name", PROXIES)
async def test_no_proxy_of_the_environment_is_asked(name: str, found: Found) -> None:
    assert found.plain["status"] == 200
    assert found.https[OWN]["status"] == 200
    assert found.proxies[name] == 0


async def test_what_needs_no_proxy_is_not_read_either(found: Found) -> None:
    """`NO_PROXY` decides nothing: neither of `web_api` nor of the way out, whose own list programs get."""
    assert (found.plain["status"], found.sandbox[0]) == (200, "200")
    assert json.loads(found.sandbox[1])["NO_PROXY"] == "localhost,127.0.0.1,::1"


@pytest.mark.parametrize("name", TRUSTED)
async def test_no_authority_of_the_environment_is_believed(name: str, found: Found) -> None:
    assert (found.https[name]["code"], found.https[name]["reason"]) == ("upstream_failed", "web.certificate")


async def test_the_operators_own_bundle_is_believed(found: Found) -> None:
    assert found.https[OWN]["status"] == 200


async def test_no_key_is_written_down(found: Found) -> None:
    assert not (found.directory / "keys").exists()


async def test_no_password_is_taken_from_a_netrc(found: Found) -> None:
    assert len(found.site.seen) == 2, "one call, one program"
    assert [each.header("authorization") for each in found.site.seen] == [None, None]
    assert [each.header("proxy-authorization") for each in found.site.seen] == [None, None]


async def test_programs_see_nothing_of_the_servers_environment(found: Found) -> None:
    status, environ = found.sandbox
    assert status == "200"
    assert str(found.directory) not in environ
    assert "user:word" not in environ
    assert not {"NETRC", "SSLKEYLOGFILE", OWN} & json.loads(environ).keys()
