"""The raw engine: the same hardened containers, without the server and without any client library."""

from __future__ import annotations

import secrets
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.dockerapi import Attached, DockerApi
from bench.stats import Samples
from sandbox_server import wire
from sandbox_server.engines.base import Owner
from sandbox_server.engines.docker import labels
from sandbox_server.engines.docker.hostconfig import create_payload
from sandbox_server.engines.docker.seccomp import load_profiles
from sandbox_server.images.recipes import tag_of
from sandbox_server.policy.loader import load_policy
from sandbox_server.wire import Type

FIRST_UID = 10400
LARGE = 100 * 1000 * 1000
_CHUNK = 64 * 1024


class Raw:
    """Makes containers of the policy's python profile. All carry the label `instance`."""

    def __init__(self, policy: Path) -> None:
        self.instance = f"bench-raw-{secrets.token_hex(4)}"
        self.api = DockerApi()
        self.image = tag_of("python")
        self._profile = load_policy(policy).grants["python"].profile
        self._seccomp = load_profiles()[self._profile.seccomp]
        info = self.api.json("GET", "/info")
        self._cgroup = info["CgroupDriver"], str(info.get("CgroupVersion") or "1")
        self._uids = 0

    def payload(self) -> dict[str, Any]:
        self._uids = (self._uids + 1) % 100
        driver, version = self._cgroup
        return create_payload(
            self._profile,
            image=self.image,
            uid=FIRST_UID + self._uids,
            owner=Owner(self.instance, "raw"),
            deadline=time.time() + 600,
            seccomp=self._seccomp,
            cgroup_driver=driver,
            cgroup_version=version,
        )

    def phases(self) -> tuple[float, float, float]:
        """Seconds to create, to start and to remove one container."""
        begin = time.perf_counter()
        container = self.api.create(self.payload(), labels.new_name())
        try:
            created = time.perf_counter()
            self.api.start(container)
            started = time.perf_counter()
        finally:
            self.api.remove(container)
        return created - begin, started - created, time.perf_counter() - started

    def first_run(self, api: DockerApi) -> float:
        """Seconds from nothing to the end of the first run: create, attach, start, handshake, run."""
        begin = time.perf_counter()
        container = api.create(self.payload(), labels.new_name())
        try:
            runner = Runner(api.attach(container))
            api.start(container)
            runner.greet()
            runner.run("print(1)")
            taken = time.perf_counter() - begin
            runner.close()
        finally:
            api.remove(container)
        return taken

    def rate(self, concurrency: int, total: int, *, run: bool = False) -> float:
        """Containers created, started and removed per second; with `run`, one run in each."""

        def work(count: int) -> None:
            api = DockerApi()
            for _ in range(count):
                if run:
                    self.first_run(api)
                else:
                    container = api.create(self.payload(), labels.new_name())
                    try:
                        api.start(container)
                    finally:
                        api.remove(container)
            api.close()

        share = -(-total // concurrency)
        begin = time.perf_counter()
        with ThreadPoolExecutor(concurrency) as threads:
            for done in [threads.submit(work, share) for _ in range(concurrency)]:
                done.result()
        return share * concurrency / (time.perf_counter() - begin)

    def docker_run(self) -> float:
        """Seconds of what one would type: `docker run --rm IMAGE python3 -c 'print(1)'`."""
        arguments = ["docker", "run", "--rm", "--network=none", f"--label={labels.INSTANCE}={self.instance}"]
        arguments += ["--entrypoint=/usr/bin/python3", self.image, "-c", "print(1)"]
        begin = time.perf_counter()
        done = subprocess.run(arguments, capture_output=True, check=True)
        taken = time.perf_counter() - begin
        if done.stdout != b"1\n":
            raise RuntimeError(f"docker run printed {done.stdout!r}")
        return taken

    def stream(self, pings: int) -> tuple[Samples, float, float]:
        """A bare container's attached stream: round trips of a byte through `cat`, then the seconds
        for `LARGE` bytes up and down."""
        trips = Samples()
        with self._bare("exec cat") as stream:
            for _ in range(pings):
                begin = time.perf_counter()
                stream.send(b"x")
                stream.receive()
                trips.add(time.perf_counter() - begin)
        with self._bare(f"head -c {LARGE} >/dev/null; echo done") as stream:
            begin = time.perf_counter()
            for _ in range(0, LARGE, _CHUNK):
                stream.send(bytes(_CHUNK))
            stream.receive()
            up = time.perf_counter() - begin
        with self._bare(f"read go; head -c {LARGE} /dev/zero") as stream:
            stream.send(b"\n")
            begin, left = time.perf_counter(), LARGE
            while left > 0:
                left -= len(stream.receive())
            down = time.perf_counter() - begin
        return trips, up, down

    def _bare(self, script: str) -> _Bare:
        payload = self.payload()
        payload |= {"Entrypoint": ["/bin/sh", "-c", script], "StdinOnce": False}
        return _Bare(self.api, payload)


def sweep(instance: str) -> int:
    """Remove the containers of an instance that is gone, and its control group; returns how many."""
    api = DockerApi()  # not a kept connection: that may have been cut off half-way through an answer
    left = api.labelled(f"{labels.INSTANCE}={instance}")
    for container in left:
        with suppress(RuntimeError):
            api.remove(container)
    _forget_cgroup(instance)
    return len(left)


def _forget_cgroup(instance: str) -> None:
    """The engine makes an instance's control group and never removes it; its containers' own ones, which
    lie in it, go a moment after the containers."""
    groups = list(Path("/sys/fs/cgroup").glob(f"**/sbx-{instance}"))
    until = time.monotonic() + 2
    while groups and time.monotonic() < until:
        for group in groups:
            with suppress(OSError):
                group.rmdir()
        groups = [group for group in groups if group.exists()]
        time.sleep(0.05 if groups else 0)


class _Bare:
    """A container that runs a shell script of ours, for as long as the block lasts."""

    def __init__(self, api: DockerApi, payload: dict[str, Any]) -> None:
        self._api = api
        self._container = api.create(payload, labels.new_name())

    def __enter__(self) -> Attached:
        self._stream = self._api.attach(self._container)
        self._api.start(self._container)
        return self._stream

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._api.remove(self._container)


class Runner:
    """The least that speaks the runner's wire: blocking, no limits, no checks."""

    def __init__(self, stream: Attached) -> None:
        self._stream = stream
        self._decoder = wire.Decoder()

    def greet(self) -> None:
        self._until(Type.HELLO)
        self._stream.send(wire.encode_json(Type.SETUP, 0, {"preload": []}))
        self._until(Type.READY)

    def run(self, code: str) -> None:
        request = {"op": "run", "mode": "fork", "file": "main.py", "argv": [], "code": code, "args": []}
        self._stream.send(wire.encode_json(Type.OPEN, 1, request))
        self._until(Type.CLOSE)

    def _until(self, wanted: Type) -> None:
        while True:
            data = self._stream.receive()
            if not data:
                raise RuntimeError("the runner ended")
            if any(frame.type is wanted for frame in list(self._decoder.feed(data))):
                return

    def close(self) -> None:
        self._stream.close()
