"""`policy lint --live`: the logins of real databases beside the rules."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.databases import Server

POLICY = """\
schema: sandbox-policy/v1
principals: [{match: {any: everyone}, roles: [reader]}]
roles:
  reader:
    tools: {allow: [database]}
    databases:
      shop: {dsn: "secret://shop", dialect: postgres, relations: {allow: ["public.*"]}}
"""


def lint(directory: Path, dsn: str, *flags: str) -> tuple[int, list[dict[str, Any]]]:
    policy, secrets = directory / "policy.yaml", directory / "secrets"
    policy.write_text(POLICY)
    secrets.mkdir(exist_ok=True)
    (secrets / "shop").write_text(dsn)
    (secrets / "shop").chmod(0o600)
    done = subprocess.run(
        [sys.executable, "-m", "sandbox_server", "policy", "lint", str(policy), "--json", *flags],
        capture_output=True,
        text=True,
        env={**os.environ, "SANDBOX_SERVER_SECRETS_DIR": str(secrets)},
        timeout=60,
    )
    assert done.returncode in (0, 1), done.stderr
    assert dsn not in done.stdout + done.stderr
    return done.returncode, [each for each in json.loads(done.stdout) if each["id"].startswith("database-")]


def test_a_login_that_can_do_anything_is_an_error_at_the_place_that_grants_it(
    tmp_path: Path, postgres: Server
) -> None:
    dsn = f"postgresql://{postgres.user}:{postgres.password}@{postgres.host}:{postgres.port}/postgres"
    assert lint(tmp_path, dsn)[1] == [], "nobody is asked without --live"
    code, found = lint(tmp_path, dsn, "--live")
    assert code == 1
    assert [(each["id"], each["severity"], each["at"]) for each in found] == [
        ("database-superuser", "error", "roles.reader.databases.shop")
    ]


def test_a_database_that_does_not_answer_is_a_finding_without_its_address(tmp_path: Path) -> None:
    code, found = lint(tmp_path, "postgresql://me:word@127.0.0.1:1/nothing", "--live")
    assert code == 1
    assert [each["id"] for each in found] == ["database-unaudited"]
    assert "word" not in json.dumps(found)
