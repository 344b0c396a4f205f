"""What is made of the engine's own description, and that a limit it lacks is refused by name."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import anyio
import docker
import pytest

from sandbox_server.engines.base import Owner
from sandbox_server.engines.docker import DockerEngine
from sandbox_server.engines.docker.host import FIXES, find_missing, read_host
from sandbox_server.engines.profile import Profile
from sandbox_server.errors import ConfigError
from sandbox_server.images.recipes import tag_of
from tests.engines.docker.relay import relay_socket
from tests.engines.driver import Driver

CAPABLE = {"MemoryLimit": True, "SwapLimit": True, "CpuCfsQuota": True, "PidsLimit": True}
SECCOMP = ["name=seccomp,profile=default"]


def test_a_capable_host_misses_nothing() -> None:
    assert find_missing(CAPABLE, SECCOMP, has_swap=True) == {}


@pytest.mark.parametrize(
    ("flag", "limit"),
    [("MemoryLimit", "memory"), ("SwapLimit", "swap"), ("CpuCfsQuota", "cpu"), ("PidsLimit", "pids")],
)
@pytest.mark.parametrize("value", [False, None])
def test_each_flag_that_is_off_is_a_limit_that_is_missing(flag: str, limit: str, value: object) -> None:
    missing = find_missing({**CAPABLE, flag: value}, SECCOMP, has_swap=True)
    assert missing.keys() == {limit}
    assert missing[limit]
    assert FIXES[limit]


def test_an_engine_without_seccomp_misses_it() -> None:
    assert find_missing(CAPABLE, ["name=apparmor"], has_swap=True).keys() == {"seccomp"}


def test_swap_accounting_is_not_missed_where_there_is_no_swap() -> None:
    assert find_missing({**CAPABLE, "SwapLimit": False}, SECCOMP, has_swap=False) == {}


def test_what_an_old_engine_leaves_out_counts_as_absent() -> None:
    host = read_host({}, {}, local=True)
    assert {"memory", "cpu", "pids", "seccomp"} <= host.info.missing.keys()
    assert host.info.runtimes == frozenset()


async def test_the_real_host_describes_itself(docker_engine: DockerEngine) -> None:
    info = await docker_engine.probe()
    assert info.name == "docker"
    assert info.facts["cgroup_version"] in ("1", "2")
    assert info.facts["storage_driver"]
    assert "seccomp" in info.facts["security_options"]
    assert info.missing == {}


def weaken(path: Path) -> Any:
    """The real engine, but its description says that pids can't be limited."""
    return relay_socket(path, tamper=(b'"PidsLimit":true', b'"PidsLimit":null'))


async def test_a_limit_the_host_lacks_is_refused_with_the_reason_and_the_fix(
    tmp_path: Path, owner: Owner
) -> None:
    engine = DockerEngine(owner, tag_of, base_url=f"unix://{tmp_path}/s")
    async with weaken(tmp_path / "s"):
        assert (await engine.probe()).missing.keys() == {"pids"}
        for call in (
            engine.check(Profile("python")),
            engine.start(Profile("python"), deadline=time.time() + 60),
        ):
            with pytest.raises(ConfigError, match="'pids' can't be applied: the host has no") as refused:
                await call
            assert "--insecure-allow-missing=pids" in refused.value.hint
        assert await engine.reap(now=0) == 0
        await engine.aclose()


async def test_the_operator_can_do_without_a_limit_and_then_only_that_is_left_out(
    tmp_path: Path, owner: Owner
) -> None:
    engine = DockerEngine(
        owner, tag_of, base_url=f"unix://{tmp_path}/s", insecure_allow_missing=frozenset({"pids", "swap"})
    )
    api = docker.APIClient(version="auto")
    async with weaken(tmp_path / "s"):
        await engine.check(Profile("python"))
        container = await engine.start(Profile("python"), deadline=time.time() + 60)
        with anyio.fail_after(10):
            await Driver(container).greet()
        host = api.inspect_container(container.id)["HostConfig"]
        assert not host["PidsLimit"]
        assert host["MemorySwap"] == host["Memory"] > 0
        await engine.aclose()
    api.close()
