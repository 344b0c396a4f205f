"""Statements by the policy, as a client sees them."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from mcp import Client

from tests.enforcement.place import call, place, refusal

pytestmark = pytest.mark.anyio

POLICY = """
principals: [{match: {any: everyone}, roles: [reader]}]
roles:
  reader:
    tools: {allow: [database]}
    databases:
      shop:
        dsn: secret://shop
        dialect: sqlite
        relations: {allow: ["main.*"]}
        columns: {deny: ["main.users.password"]}
        functions: {preset: safe_builtin}
        queries:
          older:
            sql: "SELECT name FROM users WHERE id > :id AND name <> :other"
            params:
              id: {type: integer, min: 0, max: 10}
              other: {type: string, max_length: 5}
deployment: {warm: 0}
"""


@asynccontextmanager
async def shop(directory: Path, era: str) -> AsyncIterator[Client]:
    path = directory / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, password TEXT);"
            "INSERT INTO users VALUES (1, 'ada', 'x'), (2, 'bob', 'y')"
        )
    connection.close()
    (directory / "secrets").mkdir()
    secret = directory / "secrets" / "shop"
    secret.write_text(f"sqlite:///{path}")
    secret.chmod(0o600)
    async with place(directory, POLICY) as here, here.client(era) as client:
        yield client


async def test_a_query_comes_back_without_what_is_withheld(tmp_path: Path, era: str) -> None:
    async with shop(tmp_path, era) as client:
        result = await call(client, "database", query="SELECT * FROM users ORDER BY id")
        assert result["rows"] == [[1, "ada"], [2, "bob"]]
        refused = await refusal(client, "database", query="SELECT password FROM users")
        assert refused["rule"] == "roles.reader.databases.shop.columns.deny[0]"


@pytest.mark.parametrize(
    ("params", "wrong"),
    [
        ({"id": -1, "other": "a"}, "params.id: must be at least 0"),
        ({"id": 11, "other": "a"}, "params.id: must be at most 10"),
        ({"id": 1, "other": "abcdef"}, "params.other: at most 5 characters"),
        ({"id": "1", "other": "a"}, "params.id: must be an integer"),
    ],
)
async def test_parameters_of_a_named_query_have_the_bounds_that_the_policy_gives_them(
    tmp_path: Path, era: str, params: dict[str, object], wrong: str
) -> None:
    async with shop(tmp_path, era) as client:
        refused = await refusal(client, "database", query="@older", params=params)
        assert wrong in refused["message"]
        fine = await call(client, "database", query="@older", params={"id": 1, "other": "ada"})
        assert fine["rows"] == [["bob"]]


async def test_others_are_served_while_a_statement_is_judged_that_was_made_to_take_long(
    tmp_path: Path, era: str
) -> None:
    hostile = "SELECT " + " + ".join(["id"] * 4000) + " FROM users"
    ticks = 0
    async with shop(tmp_path, era) as client:
        await call(client, "database", query="SELECT 1")
        async with anyio.create_task_group() as tasks:

            async def tick() -> None:
                nonlocal ticks
                while True:
                    await anyio.sleep(0.005)
                    ticks += 1

            tasks.start_soon(tick)
            await client.call_tool("database", {"query": hostile})
            tasks.cancel_scope.cancel()
    assert ticks >= 10
