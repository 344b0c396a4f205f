"""What is Docker's own: the contract's tests are in `tests/engines/contract.py`."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import anyio
import docker
import pytest
from anyio.abc import SocketAttribute

from sandbox_server.engines.base import Owner
from sandbox_server.engines.docker import DockerEngine
from sandbox_server.engines.profile import MIB, Profile, SandboxLimits
from sandbox_server.errors import ConfigError, EngineUnavailable
from sandbox_server.images.recipes import tag_of
from sandbox_server.wire import encode_credit
from tests.engines.docker.relay import relay, relay_socket
from tests.engines.driver import Driver

PROFILE = Profile("python")


def later() -> float:
    return time.time() + 600


@pytest.fixture
def api() -> Iterator[docker.APIClient]:
    """A second opinion: what the engine itself says of our containers."""
    client = docker.APIClient(version="auto")
    yield client
    client.close()


def containers_of(api: docker.APIClient, owner: Owner) -> list[dict[str, object]]:
    return list(api.containers(all=True, filters={"label": f"sbx.boot_id={owner.boot_id}"}))


async def test_labels_on_a_real_container_name_owner_deadline_and_policy(
    docker_engine: DockerEngine, owner: Owner, api: docker.APIClient
) -> None:
    container = await docker_engine.start(replace(PROFILE, revision="rev-1"), deadline=4102444800)
    found = api.inspect_container(container.id)
    assert (
        found["Config"]["Labels"].items()
        >= {
            "sbx.instance": owner.instance,
            "sbx.boot_id": owner.boot_id,
            "sbx.deadline": "4102444800",
            "sbx.policy_rev": "rev-1",
            "sbx.uid": found["Config"]["User"].split(":")[0],
        }.items()
    )


async def test_the_engine_took_every_limit_as_it_was_sent(
    docker_engine: DockerEngine, api: docker.APIClient
) -> None:
    limits = SandboxLimits(memory=128 * MIB, cpus=0.5, pids=33, shm=4 * MIB)
    container = await docker_engine.start(Profile("python", limits), deadline=later())
    host = api.inspect_container(container.id)["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == 128 * MIB
    assert (host["NanoCpus"], host["PidsLimit"], host["ShmSize"]) == (500_000_000, 33, 4 * MIB)
    assert host["NetworkMode"] == "none"
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert not host["Binds"]
    assert "/proc/kallsyms" in host["MaskedPaths"]


async def test_the_limits_are_in_force_inside(docker_engine: DockerEngine) -> None:
    limits = SandboxLimits(memory=128 * MIB, pids=33, workspace=8 * MIB, inodes=400, open_files=64)
    container = await docker_engine.start(Profile("python", limits), deadline=later())
    runner = Driver(container)
    with anyio.fail_after(20):
        await runner.greet()
        seen = await runner.run(INSIDE)
    facts = dict(line.split("=", 1) for line in seen.stdout.splitlines())
    assert facts["caps"] == "0000000000000000 0000000000000000 0000000000000000"
    assert facts["no_new_privs"] == "1"
    assert facts["seccomp"] == "2"
    assert facts["nofile"] == "(64, 64)"
    assert facts["core"] == "(0, 0)"
    assert facts["workspace"] == f"{8 * MIB} 400"
    assert facts["links"] == "['lo']"
    assert facts["root"] == "OSError 30"
    assert facts["hostname"] == "sandbox"
    assert 10000 <= int(facts["uid"]) < 10512
    assert int(facts["oom_score_adj"]) >= 500


INSIDE = r"""
import os, resource, socket
status = dict(l.rstrip().split(":\t", 1) for l in open("/proc/self/status") if ":\t" in l)
space = os.statvfs("/workspace")
print("caps=" + " ".join(status[c] for c in ("CapEff", "CapBnd", "CapAmb")))
print("no_new_privs=" + status["NoNewPrivs"])
print("seccomp=" + status["Seccomp"])
print("nofile=", resource.getrlimit(resource.RLIMIT_NOFILE), sep="")
print("core=", resource.getrlimit(resource.RLIMIT_CORE), sep="")
print("workspace=", space.f_blocks * space.f_frsize, " ", space.f_files, sep="")
print("links=", [l.split(":")[0].strip() for l in open("/proc/net/dev") if ":" in l], sep="")
print("hostname=" + socket.gethostname())
print("uid=", os.getuid(), sep="")
print("oom_score_adj=" + open("/proc/self/oom_score_adj").read().strip())
try:
    open("/usr/x", "w")
except OSError as error:
    print("root=OSError", error.errno)
"""


async def test_the_runner_can_read_its_own_cpu_use_and_oom_count(docker_engine: DockerEngine) -> None:
    container = await docker_engine.start(PROFILE, deadline=later())
    runner = Driver(container)
    with anyio.fail_after(20):
        ready = await runner.greet()
        report = (await runner.run("sum(range(10**6))")).report
    assert ready["accounting"].startswith("cgroup")
    assert report["cpu_us"] > 0
    assert report["oom_kills"] == 0


async def test_no_two_live_sandboxes_share_a_uid_also_across_servers(
    docker_engine: DockerEngine, owner: Owner, api: docker.APIClient
) -> None:
    second = DockerEngine(Owner(owner.instance, uuid4().hex), tag_of)
    ids = [(await engine.start(PROFILE, deadline=later())).id for engine in (docker_engine, second) * 2]
    users = {api.inspect_container(id)["Config"]["User"] for id in ids}
    await second.aclose()
    assert len(users) == 4


async def test_a_paused_container_can_be_destroyed(
    docker_engine: DockerEngine, owner: Owner, api: docker.APIClient
) -> None:
    container = await docker_engine.start(PROFILE, deadline=later())
    api.pause(container.id)
    with anyio.fail_after(10):
        await container.destroy()
    assert containers_of(api, owner) == []


async def until_full(unread_in: socket.socket) -> None:
    """Wait until the bytes that lie there unread are many and no more come."""
    before, same = 0, 0
    while same < 5:
        await anyio.sleep(0.05)
        unread = int.from_bytes(fcntl.ioctl(unread_in, termios.FIONREAD, b"\0" * 4), sys.byteorder)
        same = same + 1 if unread == before > 64 * 1024 else 0
        before = unread


async def test_a_container_whose_output_nobody_reads_can_be_destroyed(
    docker_engine: DockerEngine, owner: Owner, api: docker.APIClient
) -> None:
    container = await docker_engine.start(PROFILE, deadline=later())
    runner = Driver(container)
    await runner.greet()
    flood = "while True: print('x' * 10_000)"
    channel = await runner.open({"op": "run", "mode": "fork", "code": flood, "args": [], "file": "main.py"})
    await container.stream.send(encode_credit(channel, 64 * MIB))
    with anyio.fail_after(20):
        await until_full(container.stream.extra(SocketAttribute.raw_socket))
    with anyio.fail_after(5):
        await container.destroy()
    assert containers_of(api, owner) == []


async def test_a_container_that_somebody_else_removed_counts_as_destroyed(
    docker_engine: DockerEngine, api: docker.APIClient
) -> None:
    container = await docker_engine.start(PROFILE, deadline=later())
    api.remove_container(container.id, force=True)
    assert (await container.death()).exit_code is None
    with anyio.fail_after(10):
        await container.destroy()


async def test_a_killed_runner_is_told_with_its_exit_code(
    docker_engine: DockerEngine, api: docker.APIClient
) -> None:
    container = await docker_engine.start(PROFILE, deadline=later())
    runner = Driver(container)
    await runner.greet()
    api.kill(container.id)
    with anyio.fail_after(10), pytest.raises(anyio.EndOfStream):
        await runner.receive()
    death = await container.death()
    assert death.exit_code == 137
    assert "137" in death.reason


async def test_cancelling_a_crowd_of_starts_leaves_no_container_and_no_uid(
    docker_engine: DockerEngine, owner: Owner, api: docker.APIClient
) -> None:
    async def start() -> None:
        await docker_engine.start(PROFILE, deadline=later())

    for milliseconds in (5, 20, 50, 80, 120):
        with anyio.move_on_after(milliseconds / 1000):
            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(start)
    await docker_engine.aclose()
    assert containers_of(api, owner) == []


async def test_a_start_cancelled_by_asyncio_itself_leaves_no_container_either(
    docker_engine: DockerEngine, owner: Owner, api: docker.APIClient
) -> None:
    for milliseconds in (2, 6, 10, 15, 20, 40, 70, 100):
        task = asyncio.create_task(docker_engine.start(PROFILE, deadline=later()))
        await asyncio.wait([task], timeout=milliseconds / 1000)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            await task.result().destroy()
    with anyio.fail_after(10):
        # The thread of the last call ends by itself, and removes what it made.
        while containers_of(api, owner):  # noqa: ASYNC110 - nothing tells of it
            await anyio.sleep(0.05)


async def test_a_missing_runtime_is_named_with_what_to_do(docker_engine: DockerEngine) -> None:
    profile = replace(PROFILE, runtime="no-such-runtime")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no-such-runtime") as refused:
        await docker_engine.check(profile)
    assert "daemon.json" in refused.value.hint
    with pytest.raises(ConfigError):
        await docker_engine.start(profile, deadline=later())


@pytest.mark.parametrize(
    ("limits", "name"),
    [(SandboxLimits(cpus=10_000), "cpu"), (SandboxLimits(memory=2**60), "memory")],
)
async def test_limits_above_the_host_are_refused_by_name(
    docker_engine: DockerEngine, limits: SandboxLimits, name: str
) -> None:
    with pytest.raises(ConfigError, match=f"'{name}'") as refused:
        await docker_engine.check(Profile("python", limits))
    assert refused.value.hint


async def test_what_the_daemon_itself_refuses_is_told_and_leaves_nothing(
    docker_engine: DockerEngine, owner: Owner, api: docker.APIClient
) -> None:
    with pytest.raises(ConfigError, match=r"[Mm]emory"):
        await docker_engine.start(Profile("python", SandboxLimits(memory=1)), deadline=later())
    assert containers_of(api, owner) == []


async def test_an_image_that_was_not_built_is_named_with_what_to_do(owner: Owner) -> None:
    engine = DockerEngine(owner, lambda name: f"mcp-sandbox/{name}:never-built")
    for call in (engine.check(PROFILE), engine.start(PROFILE, deadline=later())):
        with pytest.raises(ConfigError, match="mcp-sandbox/python:never-built") as refused:
            await call
        assert "images build" in refused.value.hint
    await engine.aclose()


async def test_an_image_without_a_runner_is_an_error_of_the_deployment(
    owner: Owner, api: docker.APIClient
) -> None:
    image = api.commit(api.create_container(tag_of("base"), entrypoint=["/no/runner"])["Id"])["Id"]
    source = api.containers(all=True, filters={"ancestor": tag_of("base"), "status": "created"})
    engine = DockerEngine(owner, lambda name: image)
    try:
        with pytest.raises(ConfigError, match="no runner") as refused:
            await engine.start(PROFILE, deadline=later())
        assert "/var/lib" not in str(refused.value)
        assert containers_of(api, owner) == []
    finally:
        await engine.aclose()
        for container in source:
            if container["Command"] == "/no/runner":
                api.remove_container(container["Id"])
        api.remove_image(image)


async def test_an_engine_that_is_down_is_told_at_once(tmp_path: Path, owner: Owner) -> None:
    engine = DockerEngine(owner, tag_of, base_url=f"unix://{tmp_path}/none.sock")
    with anyio.fail_after(3):
        for call in (engine.probe(), engine.check(PROFILE), engine.start(PROFILE, deadline=later())):
            with pytest.raises(EngineUnavailable) as down:
                await call
            assert down.value.hint
            assert str(tmp_path) not in str(down.value)


async def test_the_same_engine_object_works_again_after_the_engine_was_away(
    tmp_path: Path, owner: Owner
) -> None:
    door = tmp_path / "engine.sock"
    engine = DockerEngine(owner, tag_of, base_url=f"unix://{door}")
    async with relay_socket(door):
        container = await engine.start(PROFILE, deadline=later())
        runner = Driver(container)
        await runner.greet()
    with anyio.fail_after(10):
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await runner.receive()
        with pytest.raises(EngineUnavailable):
            await engine.start(PROFILE, deadline=later())
        assert "does not answer" in (await container.death()).reason
        with pytest.raises(EngineUnavailable):
            await container.destroy()
    async with relay_socket(door):
        await container.destroy()
        second = await engine.start(PROFILE, deadline=later())
        with anyio.fail_after(10):
            await Driver(second).greet()
        await engine.aclose()


async def test_an_engine_on_tcp_works_the_same(owner: Owner) -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    async with relay(listener):
        engine = DockerEngine(owner, tag_of, base_url=f"tcp://127.0.0.1:{port}")
        container = await engine.start(PROFILE, deadline=later())
        runner = Driver(container)
        with anyio.fail_after(10):
            await runner.greet()
            assert (await runner.run("print(6 * 7)")).stdout == "42\n"
        await engine.aclose()


@pytest.mark.parametrize("address", ["https://host:2376", "ssh://host", "npipe:////./pipe/docker"])
def test_an_address_that_is_not_supported_is_refused_with_a_way_out(owner: Owner, address: str) -> None:
    with pytest.raises(ConfigError) as refused:
        DockerEngine(owner, tag_of, base_url=address)
    assert "unix://" in refused.value.hint


@pytest.mark.parametrize("name", ["", "a b", "../x", "-rm", "x" * 64, "a=b", "ä"])
def test_an_instance_name_that_could_be_mistaken_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        DockerEngine(Owner(name, "boot"), tag_of)
