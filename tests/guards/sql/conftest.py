"""The three engines with their canaries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.databases import Server
from tests.guards.sql.canaries import Engine, mysql_engine, postgres_engine, sqlite_engine


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Engine]:
    with sqlite_engine(tmp_path) as engine:
        yield engine


@pytest.fixture
def postgresql(postgres: Server) -> Iterator[Engine]:
    with postgres_engine(postgres) as engine:
        yield engine


@pytest.fixture
def mysql(mariadb: Server) -> Iterator[Engine]:
    with mysql_engine(mariadb) as engine:
        yield engine


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def engine(request: pytest.FixtureRequest) -> Engine:
    found: Engine = request.getfixturevalue(request.param)
    return found
