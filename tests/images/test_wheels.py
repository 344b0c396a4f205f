"""Wheels come from the host's pip, checked, and the host's CA stays on the host."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from uuid import uuid4

import docker
import pytest

from sandbox_server.engines.docker.images import DockerImages
from sandbox_server.errors import ConfigError
from sandbox_server.images.build import build
from sandbox_server.images.recipes import tag_of
from sandbox_server.images.wheels import fetch
from tests.images.conftest import Run

pytestmark = pytest.mark.anyio


def silent(_: str) -> None:
    return


async def test_a_wheel_with_another_hash_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"idna==3.10 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(ConfigError, match="DO NOT MATCH THE HASHES"):
        await fetch(lock, tmp_path / "cache", ca_bundle=None, log=silent)
    # Nothing half-done may look like a finished download to the next build.
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_dir() and not path.suffix][1:]


async def test_a_bundle_that_is_not_there_is_named(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"idna==3.10 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(ConfigError, match=r"nowhere\.pem"):
        await fetch(lock, tmp_path / "cache", ca_bundle=tmp_path / "nowhere.pem", log=silent)


async def test_a_ca_bundle_given_for_a_build_is_used_and_ends_up_in_no_layer(
    store: DockerImages, changed: Path, tmp_path: Path, run: Run, client: docker.DockerClient
) -> None:
    mark = f"ca-{uuid4().hex}"
    bundle = tmp_path / "ca.pem"
    bundle.write_text(f"# {mark}\n{_host_bundle().read_text()}")
    with (changed / "python" / "requirements.in").open("a") as content:
        content.write("# rebuild\n")
    await build(
        store, ["python"], report=lambda _: None, ca_bundle=bundle, cache=tmp_path / "cache", root=changed
    )
    assert list((tmp_path / "cache").rglob("numpy-*.whl")), "the wheels must have been fetched with it"
    tag = tag_of("python", changed)
    # The mark of the runner is found: so the search sees the whole tree.
    found = run(
        tag, "sh", "-c", f"grep -rlsE '{mark}|{_mark(changed)}' --exclude-dir=proc --exclude-dir=sys / ; true"
    )
    assert [line for line in found.splitlines() if "__pycache__" not in line] == ["/opt/sandbox/mark.py"]
    kept = f"{client.api.history(tag)}{client.api.inspect_image(tag)}"
    assert "sandbox-server.revision" in kept
    assert mark not in kept
    assert str(bundle) not in kept


def _host_bundle() -> Path:
    places = (
        os.environ.get("PIP_CERT"),
        os.environ.get("SSL_CERT_FILE"),
        ssl.get_default_verify_paths().cafile,
    )
    usual = (*places, "/etc/ssl/certs/ca-certificates.crt")
    return next(Path(place) for place in usual if place and Path(place).is_file())


def _mark(root: Path) -> str:
    return (root / "runner" / "mark.py").read_text().split()[1]
