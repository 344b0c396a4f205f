"""The tool `database` and the resource `db://{name}/schema`, from the MCP client to a file of SQLite's."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import mcp_types as types
import pytest
from mcp.shared.exceptions import MCPError

from sandbox_server.access.database.databases import Databases
from sandbox_server.access.database.settings import NamedQuery, Param
from sandbox_server.protocol.database import OUTPUT_SCHEMA
from sandbox_server.protocol.schemas import TEMPLATE
from sandbox_server.protocol.server import SandboxMcpServer, build_server
from tests.access.database.support import TABLES, Guarded, Place
from tests.protocol.fake_executor import FakeExecutor, connect

QUERY = NamedQuery(
    "SELECT id, total FROM orders WHERE placed >= :day ORDER BY id",
    {"day": Param("date")},
    description="Orders since a day",
)


@pytest.fixture
async def databases(tmp_path: Path) -> AsyncIterator[Databases]:
    path = tmp_path / "shop.db"
    place = Place("sqlite", f"sqlite:///{path}", path=path)
    place.run(TABLES)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE customers SET name = 'evil \x1b[31m name' WHERE id = 2")
    rules = place.rules(columns_deny=("*.email",))
    shop = place.settings(rules, queries={"since": QUERY})
    writing = place.settings(place.rules(mode="write"), name="desk", max_affected=1)
    made = Databases(Guarded({"shop": shop, "desk": writing}), {"shop-dsn": place.dsn}.__getitem__)
    yield made
    await made.aclose()


@pytest.fixture
def server(databases: Databases) -> SandboxMcpServer:
    return build_server(FakeExecutor(), version="0", databases=databases)


async def call(server: SandboxMcpServer, era: str = "legacy", **arguments: Any) -> types.CallToolResult:
    async with connect(server, era) as client:
        return await client.call_tool("database", {"database": "shop", **arguments})


def structured(result: types.CallToolResult) -> dict[str, Any]:
    assert isinstance(result.structured_content, dict)
    jsonschema.validate(result.structured_content, OUTPUT_SCHEMA)
    return result.structured_content


async def test_rows_are_structured_and_brief_text(server: SandboxMcpServer, era: str) -> None:
    sql = "SELECT id, name, total FROM customers JOIN orders USING (id) ORDER BY id"
    result = await call(server, era, query=sql)
    facts = structured(result)
    assert facts.pop("elapsed_seconds") > 0
    assert facts == {
        "database": "shop",
        "operation": "select",
        "columns": [{"name": name, "type": "any"} for name in ("id", "name", "total")],
        "rows": [[1, "Ada", 10.5], [2, "evil \\x1b[31m name", 20], [3, "Cléo", 5.25]],
        "row_count": 3,
        "truncated": False,
        "rule": facts["rule"],
    }
    text = result.content[0].text
    assert text.splitlines()[:3] == ["select on shop: 3 rows", "id | name | total", '[1,"Ada",10.5]']
    assert "\x1b" not in text


async def test_a_page_tells_how_to_get_the_next(server: SandboxMcpServer) -> None:
    result = await call(server, query="SELECT id FROM orders ORDER BY id", limit=2)
    assert structured(result)["next_offset"] == 2
    assert "offset=2" in result.content[0].text
    rest = await call(server, query="SELECT id FROM orders ORDER BY id", limit=2, offset=2)
    assert structured(rest)["rows"] == [[3]]


async def test_a_named_query_takes_typed_values(server: SandboxMcpServer, era: str) -> None:
    result = await call(server, era, query="@since", params={"day": "2026-01-02"})
    assert structured(result)["rows"] == [[2, 20], [3, 5.25]]
    wrong = await call(server, era, query="@since", params={"day": "2026-13-02"})
    assert wrong.is_error
    assert "params.day: must be a date" in wrong.structured_content["message"]
    unknown = await call(server, era, query="@sinse")
    assert unknown.structured_content["code"] == "not_found"
    assert "@since" in unknown.structured_content["hint"]


async def test_a_denial_names_its_rule(server: SandboxMcpServer, era: str) -> None:
    for query in (
        "SELECT token FROM secret",
        "SELECT email FROM customers",
        "DROP TABLE orders",
        "SELECT 1; SELECT 2",
    ):
        result = await call(server, era, query=query)
        assert result.is_error
        assert result.structured_content["code"] == "policy_denied"
        assert result.structured_content["rule"]


async def test_a_change_says_how_many_rows(server: SandboxMcpServer) -> None:
    sql = "UPDATE customers SET tier = 5 WHERE id = 1"
    result = await call(server, database="desk", query=sql, operation="update")
    facts = structured(result)
    assert (facts["affected"], facts["rows"]) == (1, [])
    assert result.content[0].text == "update on desk: 1 changed"
    wrong = await call(server, database="desk", query=sql, operation="delete")
    assert wrong.structured_content["code"] == "policy_denied"
    many = await call(
        server, database="desk", query="UPDATE customers SET tier = 5 WHERE id > 1", operation="update"
    )
    assert many.structured_content["code"] == "limit_exceeded"


async def test_which_database_must_be_said_where_there_are_several(server: SandboxMcpServer) -> None:
    result = await call(server, database=None, query="SELECT 1")
    assert "database: required" in result.structured_content["message"]
    unknown = await call(server, database="hr", query="SELECT 1")
    assert unknown.structured_content["code"] == "not_found"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "query: required"),
        ({"query": ""}, "query: "),
        ({"query": "SELECT 1", "operation": "merge"}, "operation: "),
        ({"query": "SELECT 1", "limit": 0}, "limit: "),
        ({"query": "SELECT 1", "offset": -1}, "offset: "),
        ({"query": "SELECT 1", "params": {"a": [1]}}, "params.a"),
        ({"query": "SELECT 1", "timeout": 5}, "timeout: unknown argument"),
    ],
)
async def test_wrong_arguments_are_named(
    server: SandboxMcpServer, arguments: dict[str, Any], problem: str
) -> None:
    result = await call(server, **arguments)
    assert result.structured_content["code"] == "invalid_request"
    assert problem in result.structured_content["message"]


async def test_the_tool_is_listed_only_where_there_are_databases(server: SandboxMcpServer) -> None:
    async with connect(server, "legacy") as client:
        (tool,) = [each for each in (await client.list_tools()).tools if each.name == "database"]
        assert len(tool.model_dump_json(by_alias=True, exclude_none=True)) <= 1550
    async with connect(build_server(FakeExecutor(), version="0"), "legacy") as client:
        assert "database" not in [each.name for each in (await client.list_tools()).tools]
        assert client.server_capabilities.completions is None


async def test_a_schema_is_a_resource_with_what_may_be_seen(server: SandboxMcpServer, era: str) -> None:
    async with connect(server, era) as client:
        assert [each.uri for each in (await client.list_resources()).resources] == [
            "db://shop/schema",
            "db://desk/schema",
        ]
        templates = (await client.list_resource_templates()).resource_templates
        assert TEMPLATE in [each.uri_template for each in templates]
        (content,) = (await client.read_resource("db://shop/schema")).contents
    assert isinstance(content, types.TextResourceContents)
    assert content.text.splitlines() == [
        "-- shop: sqlite, read",
        "@since(day date)  -- Orders since a day",
        "table customers",
        "  id integer primary key",
        "  name varchar(50) not null",
        "  tier integer",
        "table orders",
        "  id integer primary key",
        "  customer_id integer not null -> customers(id)",
        "  total decimal(10, 2)",
        "  placed date",
    ]


@pytest.mark.parametrize(
    "uri", ["db://hr/schema", "db://shop/secrets", "db://shop", "db://shop/schema?x=1", "db://../schema"]
)
async def test_what_is_no_schema_is_not_there(server: SandboxMcpServer, era: str, uri: str) -> None:
    async with connect(server, era) as client:
        with pytest.raises(MCPError) as refused:
            await client.read_resource(uri)
    assert refused.value.error.code == types.INVALID_PARAMS


async def test_a_databases_name_is_completed(server: SandboxMcpServer, era: str) -> None:
    async with connect(server, era) as client:
        schema = types.ResourceTemplateReference(uri=TEMPLATE)
        found = await client.complete(schema, {"name": "name", "value": "sh"})
        assert found.completion.values == ["shop"]
        everything = await client.complete(schema, {"name": "name", "value": ""})
        assert everything.completion.values == ["shop", "desk"]
        other = types.ResourceTemplateReference(uri="run://{id}/{stream}{?offset,limit,grep}")
        assert (await client.complete(other, {"name": "id", "value": ""})).completion.values == []
