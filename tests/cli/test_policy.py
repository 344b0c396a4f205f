"""`sandbox-server policy` as an operator runs it: what it prints, and its exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from sandbox_server.audit.files import LogFiles
from sandbox_server.audit.masking import AuditRules, Masking
from sandbox_server.policy.decision import Principal, Request
from sandbox_server.policy.engine import decide
from sandbox_server.policy.loader import load_policy
from sandbox_server.policy.records import decision_record

POLICY = """\
schema: sandbox-policy/v1
principals:
  - {match: {sub: ann}, roles: [analyst]}
roles:
  analyst:
    tools: {allow: [web_api]}
    web:
      allow: [{id: gh, hosts: [api.github.com], methods: [GET]}]
tests: [policy.test.yaml]
"""
CASES = """\
- name: ann reads
  principal: {sub: ann}
  request: {tool: web_api, args: {method: GET, url: "https://api.github.com/x"}}
  expect: {decision: allow}
"""
ROOT = str(Path(__file__).parents[2])
URL = '{"method": "GET", "url": "https://api.github.com/x"}'
OTHER = '{"method": "GET", "url": "https://x.example.org/"}'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "policy.test.yaml").write_text(CASES)
    (tmp_path / "ann.json").write_text('{"sub": "ann"}')
    return tmp_path


def run(place: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sandbox_server", "policy", *args],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=place,
        env={**os.environ, "SANDBOX_SERVER_POLICY": "policy.yaml", "PYTHONPATH": ROOT},
    )


def logged(place: Path, *args: str) -> Path:
    """A decision log of these calls of ann."""
    policy, who = load_policy(place / "policy.yaml"), Principal("ann", authenticated=True)
    files = LogFiles(place / "log", stamp=dict)
    files.open()
    for each in args:
        request = Request("web_api", json.loads(each))
        record = decision_record(who, request, decide(policy, who, request))
        files.append([{"kind": "decision", **Masking(AuditRules()).clean(record)}])
    files.close()
    return place / "log"


def test_lint_names_the_place_the_rule_and_the_fix(place: Path) -> None:
    clean = run(place, "lint")
    assert (clean.returncode, clean.stdout) == (0, "policy.yaml: no findings\n")
    (place / "policy.yaml").write_text(POLICY.replace("methods: [GET]", "schemes: [http]"))
    done = run(place, "lint", "--json")
    assert done.returncode == 1
    ids = {each["id"]: each for each in json.loads(done.stdout)}
    assert (ids["plain-http"]["file"], ids["plain-http"]["line"]) == ("policy.yaml", 8)
    assert ids["plain-http"]["fix"] == "use https alone"
    assert "failing-tests" in ids


def test_a_policy_that_does_not_load_is_not_linted_but_refused(place: Path) -> None:
    (place / "policy.yaml").write_text(POLICY.replace("methods", "metods"))
    for command in (["lint"], ["test"], ["show"], ["explain", "--tool", "web_api"], ["learn", "log"]):
        done = run(place, *command)
        assert done.returncode == 2, command
        assert "policy.yaml:8:49: roles.analyst.web.allow[0].metods: unknown key, did you mean" in done.stderr
        assert "Traceback" not in done.stderr
    told = json.loads(run(place, "lint", "--json").stdout)
    assert "did you mean 'methods'?" in told["error"]["message"]


def test_test_runs_the_cases_and_writes_what_machines_read(place: Path) -> None:
    done = run(place, "test", "--coverage", "--junit", "out.xml")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1 of 1 tests pass; 2 of 2 rules covered\n"
    assert ElementTree.parse(place / "out.xml").getroot().attrib["failures"] == "0"
    mutated = run(place, "test", "--mutate", "--json")
    assert mutated.returncode == 1
    survivors = json.loads(mutated.stdout)["mutation"]["survivors"]
    assert {"rule": "roles.analyst.web.allow[gh]", "change": "methods widened to all"} in survivors
    (place / "policy.test.yaml").write_text(CASES.replace("decision: allow", "decision: deny"))
    failed = run(place, "test")
    assert failed.returncode == 1
    assert failed.stdout.startswith("FAIL policy.test.yaml: ann reads: decision: expected deny, got allow")


def test_a_policy_without_tests_can_not_be_tested(place: Path) -> None:
    (place / "policy.yaml").write_text(POLICY.replace("tests: [policy.test.yaml]\n", ""))
    done = run(place, "test")
    assert done.returncode == 2
    assert "has no tests" in done.stderr


def test_explain_prints_the_object_that_the_log_holds(place: Path) -> None:
    done = run(place, "explain", "--as", "ann.json", "--tool", "web_api", "--args", URL, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["decision"], told["rule"]) == ("allow", "roles.analyst.web.allow[gh]")
    (log,) = logged(place, URL).glob("*.jsonl")
    held: dict[str, Any] = json.loads(log.read_text().splitlines()[1])
    # Of the claims the log keeps only what the policy looks at.
    del told["principal"]["claims"], held["principal"]["claims"]
    assert {key: held[key] for key in told} == told


def test_explain_says_why_not_and_what_would_be_allowed(place: Path) -> None:
    done = run(place, "explain", "--as", "ann.json", "--tool", "web_api", "--args", OTHER)
    assert done.returncode == 1
    assert done.stdout.startswith("deny: no rule allows this host")
    assert "nearest api.github.com" in done.stdout
    assert run(place, "explain", "--tool", "web_api", "--args", URL).returncode == 1


def test_a_question_that_is_no_json_is_told_apart_from_a_denial(place: Path) -> None:
    done = run(place, "explain", "--as", "ann.json", "--tool", "web_api", "--args", "{url}")
    assert done.returncode == 2
    assert "--args: not JSON" in done.stderr


def test_show_lists_what_one_principal_may_do(place: Path) -> None:
    told = json.loads(run(place, "show", "--as", "ann.json", "--json").stdout)
    assert told["tools"] == ["web_api"]
    assert told["web"]["allow"][0]["hosts"] == ["api.github.com"]
    assert json.loads(run(place, "show", "--json").stdout)["tools"] == []
    assert "hosts: ['api.github.com']" in run(place, "show", "--as", "ann.json").stdout


def test_diff_tells_same_from_different_and_replays_a_log(place: Path) -> None:
    (place / "new.yaml").write_text(POLICY.replace("api.github.com", "gitlab.com"))
    assert run(place, "diff", "policy.yaml", "policy.yaml").returncode == 0
    log = logged(place, URL, OTHER)
    done = run(place, "diff", "policy.yaml", "new.yaml", "--replay", str(log))
    assert done.returncode == 1
    assert "  gains: web GET https://gitlab.com" in done.stdout
    assert "  1 x ann web_api https://api.github.com/x: allow -> deny (default)" in done.stdout


def test_learn_prints_an_addition_that_a_human_can_read(place: Path) -> None:
    log = logged(place, URL, OTHER)
    done = run(place, "learn", str(log))
    assert done.returncode == 1
    assert "would allow 1 different calls" in done.stdout
    assert "- x.example.org" in done.stdout
    assert (place / "policy.yaml").read_text() == POLICY
    assert json.loads(run(place, "learn", str(log), "--json").stdout)["allowed"] == 1


def test_the_schema_is_one_that_editors_take(place: Path) -> None:
    schema = json.loads(run(place, "schema").stdout)
    wall = schema["$defs"]["Limits"]["properties"]["wall"]["anyOf"][0]
    assert wall["type"] == "string"
    assert "schema" in schema["required"]
