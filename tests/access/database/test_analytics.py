"""What the guard allows, the engine's backstops allow, too: the whole corpus of queries, through both."""

from __future__ import annotations

import pytest

from sandbox_server.access.database.databases import Query
from sandbox_server.errors import SandboxServerError
from sandbox_server.guards.sql.models import SqlRules
from tests.access.database.conftest import Open
from tests.access.database.support import ME, Place
from tests.databases import Server
from tests.guards.sql.canaries import CANARY, statements
from tests.guards.sql.corpus import QUERIES


@pytest.fixture
def corpus(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Another database beside the shop's, with the tables that the corpus asks."""
    if place.dialect == "sqlite":
        path = tmp_path_factory.mktemp("corpus") / "corpus.db"
        made = Place("sqlite", f"sqlite:///{path}", path=path)
    else:
        server = place.server
        assert isinstance(server, Server)
        place.run("DROP DATABASE IF EXISTS corpus")
        place.run("CREATE DATABASE corpus")
        made = Place(place.dialect, place.dsn.rsplit("/", 1)[0] + "/corpus", server)
    for text in statements(place.dialect):
        made.run(f"USE corpus; {text}" if place.dialect == "mysql" else f"{text};")
    return made


async def test_the_corpus_of_queries_runs(corpus: Place, opened: Open) -> None:
    schema = {"sqlite": "main", "postgres": "public", "mysql": "corpus"}[corpus.dialect]
    rules = SqlRules(
        corpus.dialect,
        relations_allow=(f"{schema}.*",),
        relations_deny=("*.secret",),
        columns_deny=("*.users.password",),
        functions=frozenset({"safe_builtin"}),
        default_schema=schema,
    )
    shop = opened(corpus, corpus.settings(rules), blind=False)
    failed, rows = {}, 0
    for sql in QUERIES[corpus.dialect]:
        try:
            answer = await shop.query(Query(sql), caller=ME)
        except SandboxServerError as error:
            # Functions that this machine's SQLite is too old for are not the backstops' affair.
            if not any(each in error.message for each in ("has this parameter", "no such function")):
                failed[sql] = str(error)
            continue
        rows += len(answer.rows)
        assert CANARY not in str(answer.rows)
    assert failed == {}
    assert rows > 100
