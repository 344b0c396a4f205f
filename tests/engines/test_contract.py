"""The contract, kept by each engine."""

from __future__ import annotations

import pytest

from sandbox_server.engines.docker import DockerEngine
from sandbox_server.engines.fake import FakeEngine, FakeHost
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
