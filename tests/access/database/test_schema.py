"""What a caller is told of a database: what its rules show, and no word of the rest."""

from __future__ import annotations

import pytest

from sandbox_server.access.database.databases import Query
from sandbox_server.errors import PolicyDenied
from tests.access.database.conftest import Open
from tests.access.database.support import ME, Place


async def test_relations_come_with_types_and_keys(place: Place, opened: Open) -> None:
    text = await opened(place).schema("shop", caller=ME)
    assert "table customers" in text
    assert "  customer_id int" in text
    assert "not null -> customers(id)" in text
    assert "primary key" in text
    assert "name varchar(50) not null" in text


async def test_what_the_rules_hide_is_not_there(place: Place, opened: Open) -> None:
    schema = place.schema
    rules = place.rules(relations_allow=(f"{schema}.orders",), columns_deny=("*.total",))
    text = await opened(place, place.settings(rules)).schema("shop", caller=ME)
    for hidden in ("secret", "token", "leak", "customers", "email", "total", "->"):
        assert hidden not in text
    assert "customer_id" in text


async def test_views_are_shown_as_such(place: Place, opened: Open) -> None:
    rules = place.rules(relations_allow=(f"{place.schema}.*",), relations_deny=("*.secret",))
    text = await opened(place, place.settings(rules)).schema("shop", caller=ME)
    assert "view leak" in text
    assert "table secret" not in text


async def test_comments_come_along(place: Place, opened: Open) -> None:
    if place.dialect == "postgres":
        place.run("COMMENT ON TABLE orders IS 'What was\nbought'")
        place.run("COMMENT ON COLUMN orders.total IS 'in euros'")
    elif place.dialect == "mysql":
        place.run("ALTER TABLE orders COMMENT 'What was\nbought'")
        place.run("ALTER TABLE orders MODIFY total DECIMAL(10, 2) COMMENT 'in euros'")
    text = await opened(place).schema("shop", caller=ME)
    commented = place.dialect != "sqlite"  # which has none
    assert ("table orders  -- What was bought\n" in text) == commented
    assert ("  -- in euros\n" in text) == commented


async def test_a_star_is_the_columns_that_may_be_seen(place: Place, opened: Open) -> None:
    rules = place.rules(columns_deny=(f"{place.schema}.customers.email",))
    shop = opened(place, place.settings(rules), blind=False)
    answer = await shop.query(Query("SELECT * FROM customers ORDER BY id"), caller=ME)
    assert [column.name for column in answer.columns] == ["id", "name", "tier"]
    with pytest.raises(PolicyDenied):
        await shop.query(Query("SELECT email FROM customers"), caller=ME)
    with pytest.raises(PolicyDenied):
        await shop.query(Query("SELECT c FROM customers c"), caller=ME)
