from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from urllib.parse import quote

import pytest

from sandbox_server.access.database.databases import Databases
from sandbox_server.access.database.settings import DatabaseSettings
from tests.access.database.support import TABLES, Place, databases
from tests.databases import Server

Open = Callable[..., Databases]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def sqlite_place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    path = tmp_path_factory.mktemp("shop") / "shop of #1?.db"
    place = Place("sqlite", f"sqlite:///{quote(str(path), safe='/')}", path=path)
    place.run(TABLES)
    return place


@pytest.fixture(scope="session")
def postgres_place(postgres: Server) -> Place:
    admin = f"postgresql://{postgres.user}:{postgres.password}@{postgres.host}:{postgres.port}"
    Place("postgres", f"{admin}/postgres", postgres).run("CREATE DATABASE shop")
    place = Place("postgres", f"{admin}/shop", postgres)
    place.run(TABLES)
    return place


@pytest.fixture(scope="session")
def mariadb_place(mariadb: Server) -> Place:
    dsn = f"mysql://{mariadb.user}:{mariadb.password}@{mariadb.host}:{mariadb.port}/{mariadb.database}"
    place = Place("mysql", dsn, mariadb)
    place.run(TABLES)
    return place


@pytest.fixture(params=["sqlite", "postgres", "mysql"])
def place(request: pytest.FixtureRequest) -> Place:
    """Each dialect in turn."""
    name = {"sqlite": "sqlite_place", "postgres": "postgres_place", "mysql": "mariadb_place"}[request.param]
    found: Place = request.getfixturevalue(name)
    return found


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Makes `Databases` that are closed after the test."""
    async with AsyncExitStack() as stack:

        def make(place: Place, settings: DatabaseSettings | None = None, *, blind: bool = True) -> Databases:
            made = databases(place, settings or place.settings(), blind=blind)
            stack.push_async_callback(made.aclose)
            return made

        yield make
