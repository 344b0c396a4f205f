"""The contract, kept by each engine."""

from __future__ import annotations

import pytest

from sandbox_server.engines.docker import DockerEngine
from sandbox_server.engines.fake import FakeEngine, FakeHost
from sandbox_server.engines.profile import Profile
from sandbox_server.images.recipes import tag_of
from tests.engines.contract import EngineContract, MakeEngine


class TestFake(EngineContract):
    @pytest.fixture
    def make_engine(self) -> MakeEngine:
        host = FakeHost()
        return lambda owner: FakeEngine(owner, host=host)


class TestDocker(EngineContract):
    @pytest.fixture
    def make_engine(self) -> MakeEngine:
        return lambda owner: DockerEngine(owner, tag_of)


class TestGVisor(EngineContract):
    """The same engine with the other runtime: nothing in the payload had to be left out for it."""

    @pytest.fixture
    def profile(self) -> Profile:
        return Profile("python", runtime="runsc")

    @pytest.fixture
    def make_engine(self, gvisor_host: str) -> MakeEngine:
        return lambda owner: DockerEngine(owner, tag_of, base_url=gvisor_host)
