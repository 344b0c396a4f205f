"""What a login may do beyond the rules is found, and nothing is found where it may do no more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sandbox_server.access.database.audit import Finding, audit
from sandbox_server.errors import DatabaseUnavailable
from sandbox_server.guards.sql.models import SqlRules
from tests.access.database.support import Place


def login(place: Place, name: str, *statements: str) -> Place:
    """A login of its own that can do what these statements give it."""
    server = place.server
    assert server is not None
    if place.dialect == "postgres":
        first = [f"CREATE ROLE {name} LOGIN PASSWORD 'pw'"]
        dsn = f"postgresql://{name}:pw@{server.host}:{server.port}/shop"
    else:
        first = [f"CREATE OR REPLACE USER {name}@'127.0.0.1' IDENTIFIED BY 'pw'"]
        dsn = f"mysql://{name}:pw@{server.host}:{server.port}/app"
    for statement in [*first, *(each.format(me=name) for each in statements)]:
        place.run(statement)
    return Place(place.dialect, dsn, server)


async def found(place: Place, rules: SqlRules) -> dict[str, Finding]:
    findings = await audit(place.settings(rules), {"shop-dsn": place.dsn}.__getitem__)
    assert len({each.code for each in findings}) == len(findings)
    return {each.code.removeprefix("database."): each for each in findings}


async def test_a_superuser_is_an_error(postgres_place: Place) -> None:
    findings = await found(postgres_place, postgres_place.rules())
    assert [(code, each.level) for code, each in findings.items()] == [("superuser", "error")]


async def test_a_postgres_role_with_no_more_than_the_rules_has_no_finding(postgres_place: Place) -> None:
    reader = login(postgres_place, "reader", "GRANT SELECT ON customers, orders TO {me}")
    assert await found(reader, reader.rules()) == {}


async def test_what_a_postgres_role_can_do_beyond_the_rules_is_named(postgres_place: Place) -> None:
    place = login(
        postgres_place,
        "much",
        "ALTER ROLE {me} CREATEDB BYPASSRLS",
        "GRANT pg_read_server_files TO {me}",
        "GRANT SELECT ON customers, orders, secret TO {me}",
        "GRANT UPDATE (token) ON secret TO {me}",
        "GRANT DELETE ON orders TO {me}",
        "GRANT CREATE ON SCHEMA public TO {me}",
        "CREATE TABLE mine (id INTEGER)",
        "ALTER TABLE mine OWNER TO {me}",
    )
    findings = await found(place, place.rules(columns_deny=("public.customers.email",)))
    postgres_place.run("DROP TABLE mine")
    said = {code: each.message for code, each in findings.items()}
    assert said["role"] == "the role has createdb, bypassrls"
    assert "pg_read_server_files" in said["membership"]
    assert "public.mine" in said["owner"]
    assert "public.secret" in said["reads"]
    assert "public.orders" not in said["reads"]
    assert "public.orders" in said["writes"]
    assert "public.secret" in said["writes"]
    assert "public.customers.email" in said["columns"]
    assert "public" in said["create"]
    assert set(said) == {"role", "membership", "owner", "reads", "writes", "columns", "create"}
    writing = await found(place, place.rules(mode="write"))
    assert "public.orders" not in writing["writes"].message


async def test_roots_rights_in_mariadb_are_errors(mariadb_place: Place) -> None:
    findings = await found(mariadb_place, mariadb_place.rules())
    assert findings["privileges"].level == "error"
    assert "FILE" in findings["privileges"].message
    assert "SELECT" in findings["global"].message or "more" in findings["global"].message


async def test_a_mariadb_user_with_no_more_than_the_rules_has_no_finding(mariadb_place: Place) -> None:
    reader = login(
        mariadb_place,
        "reader",
        "GRANT SELECT (id, name) ON app.customers TO {me}@'127.0.0.1'",
        "GRANT SELECT ON app.orders TO {me}@'127.0.0.1'",
    )
    assert await found(reader, reader.rules(columns_deny=("app.customers.email",))) == {}


async def test_what_a_mariadb_user_can_do_beyond_the_rules_is_named(mariadb_place: Place) -> None:
    mariadb_place.run("CREATE OR REPLACE TABLE plain (id INTEGER) ENGINE=Aria")
    place = login(mariadb_place, "much", "GRANT SELECT, DELETE ON app.* TO {me}@'127.0.0.1'")
    findings = await found(place, place.rules(columns_deny=("app.customers.email",)))
    said = {code: each.message for code, each in findings.items()}
    assert "app.secret" in said["reads"]
    assert "app.orders" in said["writes"]
    assert "app.customers.email" in said["columns"]
    assert set(said) == {"reads", "writes", "columns"}
    writing = await found(place, replace(place.rules(mode="write"), relations_allow=("app.*",)))
    mariadb_place.run("DROP TABLE plain")
    assert "app.plain" in writing["engine"].message
    assert set(writing) == {"engine"}


async def test_a_sqlite_file_that_could_be_written_is_a_warning(sqlite_place: Place) -> None:
    assert set(await found(sqlite_place, sqlite_place.rules())) == {"writable"}
    assert await found(sqlite_place, sqlite_place.rules(mode="write")) == {}


async def test_a_database_that_does_not_answer_can_not_be_audited(postgres_place: Place) -> None:
    assert postgres_place.server is not None
    gone = replace(postgres_place, dsn=postgres_place.dsn.replace(f":{postgres_place.server.port}/", ":1/"))
    with pytest.raises(DatabaseUnavailable) as refused:
        await audit(gone.settings(), {"shop-dsn": gone.dsn}.__getitem__)
    assert "127.0.0.1" not in str(refused.value)
