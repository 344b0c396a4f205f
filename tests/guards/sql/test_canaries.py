"""The parser layer alone: what it allows is run by somebody who may do everything, and no canary sings."""

# ruff: noqa: E501  (a statement a line)

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from sandbox_server.guards.sql import Dialect
from tests.databases import Server
from tests.guards.sql.canaries import CANARY, Engine, Failed
from tests.guards.sql.corpus import QUERIES, attacks
from tests.guards.sql.rules import ask

MUTATIONS = 5000
_TOKENS = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|`[^`]*`|:?[A-Za-z_]\w*|\d+|[^\sA-Za-z_0-9]")
_SPLICES = """
secret password canary users orders * users.* secret.* users.password u.password id name (select * from secret)
(select canary from secret limit 1) (select password from users limit 1) (table secret) ; -- /* */ # , ( ) [ ] . :: || -> ->>
union select into from join natural using (password) lateral table values with recursive as x secret as (select 1) distinct
order group by having limit offset for update returning pg_read_file('{file}') load_file('{file}') readfile('{file}')
pg_sleep(3) sleep(3) row_to_json(users) to_jsonb(u) count(*) max u users rowid ctid 'secret' "secret" "password" `secret` [secret]
U&"secret" E'\\'' $$ @@version @a ? :a 1 null true current_user user version() sqlite_master pg_shadow mysql.user
information_schema.tables pragma_table_info('secret') in not exists any all array case when then else end cast row over
(partition by filter (where within group where and or = < ~ like escape collate is between interval '1' day ts_stat('select canary from secret')
query_to_xml('select * from secret',true,true,'') 'secret'::regclass ::text .pg_read_file .row_to_json json_each(
"""


@pytest.fixture
def canary_file(engine: Engine, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file that the engine's own user can read."""
    place = tmp_path
    if engine.dialect != "sqlite":
        server: Server = request.getfixturevalue("postgres" if engine.dialect == "postgres" else "mariadb")
        place = server.directory
    path = place / "canary.txt"
    path.write_text(CANARY)
    path.chmod(0o644)
    return path


def mutations(dialect: Dialect, file: Path, seed: int, many: int) -> list[str]:
    """Valid queries and attacks, cut up and put together again."""
    dice = random.Random(seed)
    material = [*QUERIES[dialect] * 6, *attacks(dialect)]
    splices = [piece.replace("{file}", str(file)) for piece in _SPLICES.split()]
    made = []
    for _ in range(many):
        tokens = _TOKENS.findall(dice.choice(material))
        for _ in range(dice.choice((1, 1, 2, 3))):
            at = dice.randrange(len(tokens) + 1)
            match dice.randrange(5):
                case 0:
                    tokens.insert(at, dice.choice(splices))
                case 1:
                    tokens[at : at + 1] = [dice.choice(splices)]
                case 2:
                    tokens[at : at + dice.randint(1, 3)] = []
                case 3:
                    other = _TOKENS.findall(dice.choice(material))
                    tokens[at:at] = other[dice.randrange(len(other) + 1) :]
                case 4:
                    names = [index for index, token in enumerate(tokens) if token.isidentifier()]
                    if names:
                        tokens[dice.choice(names)] = dice.choice(
                            ("secret", "password", "users", "u", "canary", "orders")
                        )
        made.append(" ".join(tokens))
    return made


def test_the_canaries_sing_when_they_are_touched(engine: Engine, canary_file: Path) -> None:
    """Without this the next test could pass for the wrong reason."""
    assert CANARY in str(engine.run("select canary from secret"))
    if engine.dialect == "postgres":
        assert CANARY in str(engine.run(f"select pg_read_file('{canary_file}')"))
    elif engine.dialect == "mysql":
        assert CANARY in str(engine.run(f"select load_file('{canary_file}')"))
    else:
        assert engine.touched == {"secret.canary"}
    before = engine.state()
    engine.run("update secret set canary = 'x' where id = 1")
    assert engine.state() != before


@pytest.mark.parametrize("known", [True, False])
def test_nothing_that_the_guard_allows_touches_a_canary(
    engine: Engine, canary_file: Path, known: bool
) -> None:
    before = engine.state()
    allowed = ran = 0
    for sql in [*attacks(engine.dialect), *mutations(engine.dialect, canary_file, 20 + known, MUTATIONS)]:
        verdict = ask(engine.dialect, sql, known=known)
        if not verdict.allowed or verdict.parameters:
            continue
        allowed += 1
        try:
            seen = str(engine.run(verdict.sql))
            ran += 1
        except Failed as failure:  # its words are seen, too
            seen = str(failure)
        assert CANARY not in seen, (sql, verdict.sql)
        assert not engine.touched, (sql, verdict.sql, engine.touched)
    assert engine.state() == before
    assert canary_file.read_text() == CANARY
    # The material must be worth something: enough gets through, and most of that is SQL for the engine, too.
    assert allowed > 300
    assert ran > allowed / 4
