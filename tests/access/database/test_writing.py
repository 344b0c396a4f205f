"""Changes: counted, rolled back beyond the limit, only where the connection is for writing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox_server.access.database.databases import Query
from sandbox_server.access.database.settings import DatabaseSettings
from sandbox_server.errors import InvalidRequest, LimitExceeded, PolicyDenied, SandboxServerError
from tests.access.database.conftest import Open
from tests.access.database.support import ME, Place


@pytest.fixture
def place(place: Place) -> Iterator[Place]:
    """With a table to write to."""
    place.run("CREATE TABLE notes (id INTEGER PRIMARY KEY, note VARCHAR(50) UNIQUE);")
    place.run("INSERT INTO notes VALUES (1, 'a'), (2, 'b'), (3, 'c');")
    yield place
    place.run("DROP TABLE notes;")


def writing(place: Place, **changes: object) -> DatabaseSettings:
    schema = place.schema
    rules = place.rules(mode="write", relations_allow=(f"{schema}.notes", f"{schema}.loose"))
    return place.settings(rules, max_affected=2, **changes)


async def test_rows_are_added_changed_and_deleted(place: Place, opened: Open) -> None:
    shop = opened(place, writing(place))
    sql = "INSERT INTO notes (id, note) VALUES (:id, :note)"
    added = await shop.query(Query(sql, "insert", params={"id": 4, "note": "d'"}), caller=ME)
    assert (added.affected, added.rows, added.operation) == (1, (), "insert")
    sql = "UPDATE notes SET note = 'B' WHERE id = 2"
    assert (await shop.query(Query(sql, "update"), caller=ME)).affected == 1
    assert (await shop.query(Query("DELETE FROM notes WHERE id < 2", "delete"), caller=ME)).affected == 1
    assert place.run("SELECT id, note FROM notes ORDER BY id") == "2\tB\n3\tc\n4\td'"


async def test_rows_that_met_the_condition_count_also_if_they_had_the_value(
    place: Place, opened: Open
) -> None:
    sql = "UPDATE notes SET note = 'b' WHERE id = 2"
    assert (await opened(place, writing(place)).query(Query(sql, "update"), caller=ME)).affected == 1


async def test_too_many_changes_are_rolled_back(place: Place, opened: Open) -> None:
    before = place.run("SELECT * FROM notes ORDER BY id")
    for sql, operation in (
        ("DELETE FROM notes", "delete"),
        ("UPDATE notes SET id = id + 10", "update"),
        ("INSERT INTO notes SELECT id + 10, note || 'x' FROM notes", "insert"),
    ):
        if place.dialect == "mysql":
            sql = sql.replace("note || 'x'", "CONCAT(note, 'x')")
        with pytest.raises(LimitExceeded) as refused:
            await opened(place, writing(place)).query(Query(sql, operation), caller=ME)
        assert "3 rows" in refused.value.message
        assert "rolled back" in refused.value.message
        assert place.run("SELECT * FROM notes ORDER BY id") == before


async def test_returned_rows_come_back_and_count(place: Place, opened: Open) -> None:
    shop = opened(place, writing(place))
    answer = await shop.query(Query("DELETE FROM notes WHERE id = 1 RETURNING id, note", "delete"), caller=ME)
    assert (answer.affected, answer.rows) == (1, ((1, "a"),))
    assert [column.name for column in answer.columns] == ["id", "note"]
    place.run("INSERT INTO notes VALUES (1, 'a');")
    with pytest.raises(LimitExceeded) as refused:
        await shop.query(Query("DELETE FROM notes RETURNING note", "delete"), caller=ME)
    assert "rolled back" in refused.value.message
    assert place.run("SELECT COUNT(*) FROM notes") == "3"
    fewer = await shop.query(
        Query("DELETE FROM notes WHERE id < 3 RETURNING id", "delete", limit=1), caller=ME
    )
    assert (fewer.affected, len(fewer.rows), fewer.truncated, fewer.next_offset) == (2, 1, True, None)
    assert place.run("SELECT COUNT(*) FROM notes") == "1"


async def test_a_broken_constraint_is_named_without_its_values(place: Place, opened: Open) -> None:
    sql = "UPDATE notes SET note = 'b' WHERE id = 1"
    with pytest.raises(InvalidRequest) as refused:
        await opened(place, writing(place)).query(Query(sql, "update"), caller=ME)
    assert "constraint" in refused.value.message
    assert "notes_note_key" not in str(refused.value)
    assert place.run("SELECT note FROM notes WHERE id = 1") == "a"


async def test_a_connection_for_reading_takes_no_changes(place: Place, opened: Open) -> None:
    with pytest.raises(PolicyDenied):
        await opened(place).query(Query("DELETE FROM notes", "delete"), caller=ME)
    assert place.run("SELECT COUNT(*) FROM notes") == "3"


async def test_a_connection_for_writing_reads_in_a_transaction_that_can_not_write(
    place: Place, opened: Open
) -> None:
    shop = opened(place, writing(place))
    with pytest.raises(SandboxServerError):
        await shop.query(Query("DELETE FROM notes RETURNING id", "select"), caller=ME)
    assert place.run("SELECT COUNT(*) FROM notes") == "3"


@pytest.mark.parametrize(
    "sql", ["DROP TABLE notes", "CREATE TABLE loot (id INTEGER)", "SELECT 1; DELETE FROM notes"]
)
async def test_what_is_no_change_of_rows_is_rolled_back(place: Place, opened: Open, sql: str) -> None:
    with pytest.raises(SandboxServerError):
        await opened(place, writing(place)).query(Query(sql, "delete"), caller=ME)
    assert place.run("SELECT COUNT(*) FROM notes") == "3"


async def test_a_table_without_transactions_is_admitted(mariadb_place: Place, opened: Open) -> None:
    mariadb_place.run("CREATE OR REPLACE TABLE loose (id INTEGER) ENGINE=Aria TRANSACTIONAL=0")
    mariadb_place.run("INSERT INTO loose VALUES (1), (2), (3)")
    with pytest.raises(LimitExceeded) as refused:
        await opened(mariadb_place, writing(mariadb_place)).query(
            Query("DELETE FROM loose", "delete"), caller=ME
        )
    assert "stay changed" in refused.value.message
    assert mariadb_place.run("SELECT COUNT(*) FROM loose") == "0"
    mariadb_place.run("DROP TABLE loose")
