"""The shipped policies: each is tested to the last rule, clean, and something that others can begin with."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sandbox_server.engines.profile import MIB
from sandbox_server.policy.cases import Case, load_cases
from sandbox_server.policy.decision import Decision
from sandbox_server.policy.engine import decide
from sandbox_server.policy.lint import lint
from sandbox_server.policy.lint.untested import untested
from sandbox_server.policy.loader import load_policy, parse_policy
from sandbox_server.policy.models import Policy
from sandbox_server.policy.testing import coverage, mutate, run_cases
from sandbox_server.shipped import shipped
from tests.policy.support import ask, person

PRESETS = sorted(
    file.name.removesuffix(".yaml")
    for file in shipped("policies").glob("*.yaml")
    if not file.name.endswith(".test.yaml")
)
KNOWN = {"strict": [("unused-filter", "roles.basic.code.seccomp")]}
"""Findings that are meant, each explained in the file: all are notes."""


def preset(name: str) -> Policy:
    return load_policy(shipped("policies") / f"{name}.yaml")


def cases(name: str) -> list[tuple[str, Case]]:
    directory = shipped("policies")
    return [(file, case) for file in preset(name).file.tests for case in load_cases(directory / file)]


def extending(name: str, rest: str = "") -> Policy:
    return parse_policy(f"schema: sandbox-policy/v1\nextends: {name}\n{rest}".encode(), source="mine.yaml")


def test_these_are_the_presets() -> None:
    assert PRESETS == ["airgapped", "data-analysis", "default", "polyglot", "strict", "team"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_presets_tests_pass_reach_every_rule_and_notice_every_mistake(name: str) -> None:
    policy, written = preset(name), cases(name)
    outcomes = run_cases(policy, written)
    assert [(outcome.case, outcome.wrong) for outcome in outcomes if not outcome.passed] == []
    covered = coverage(policy, outcomes)
    assert (covered.missed, covered.total > 5) == ((), True)
    mutation = mutate(policy, [case for _, case in written])
    assert (mutation.survivors, mutation.tried > 1) == ((), True)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_clean(name: str) -> None:
    policy = preset(name)
    found = [*lint(policy.file), *untested(policy, shipped("policies"))]
    assert [(each.id, ".".join(map(str, each.path))) for each in found] == KNOWN.get(name, [])
    assert all(each.severity == "note" for each in found)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_loads_on_a_small_host_that_has_none_of_its_secrets(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SANDBOX_SECRET_SALES_DSN", raising=False)
    policy = load_policy(shipped("policies") / f"{name}.yaml", host_memory=4096 * MIB)
    assert set(policy.secrets) == {"data-analysis": {"sales_dsn"}}.get(name, set())
    assert {grant.language.name for grant in policy.every_grant} >= {"python", "bash"}


@pytest.mark.parametrize("name", PRESETS)
def test_a_policy_that_only_extends_a_preset_decides_like_it(name: str) -> None:
    base, mine = preset(name), extending(name)
    # They hold for the preset, and the file that they stand in is not beside this one.
    assert mine.file.tests == ()

    def says(policy: Policy, case: Case) -> Decision:
        return decide(policy, case.principal.principal(), case.asked())

    for _, case in cases(name):
        ours, theirs = says(mine, case), says(base, case)
        assert (ours.effect, ours.rule, ours.limits) == (theirs.effect, theirs.rule, theirs.limits)


def examples(name: str) -> list[str]:
    """The policies in a preset's comments."""
    text = (shipped("policies") / f"{name}.yaml").read_text()
    found = re.findall(r"(?:^#     .*\n)+", text, re.MULTILINE)
    return ["".join(line.removeprefix("#     ") + "\n" for line in each.splitlines()) for each in found]


@pytest.mark.parametrize("name", ["data-analysis", "strict", "team"])
def test_what_a_presets_comments_propose_loads(name: str) -> None:
    (text,) = examples(name)
    assert parse_policy(text.encode(), source="mine.yaml").revision != preset(name).revision


def test_strict_is_gvisor_or_the_smaller_filter() -> None:
    (grant, *_) = preset("strict").every_grant
    assert (grant.profile.runtime, grant.profile.seccomp, grant.files_out) == ("runsc", "strict", 8)
    mine = extending("strict", "roles: {basic: {code: {runtime: runc}}}\n")
    assert {(each.profile.runtime, each.profile.seccomp) for each in mine.every_grant} == {("runc", "strict")}
    assert [each for each in lint(mine.file) if each.id == "unused-filter"] == []


def test_what_airgapped_denies_can_not_be_granted_by_what_extends_it() -> None:
    mine = extending(
        "airgapped",
        "roles: {basic: {tools: {allow: [web_api, database], deny: []}, "
        "web: {allow: [{hosts: [example.org], paths: ['/**']}]}}}\n",
    )
    assert ask(mine, "web_api", url="https://example.org/").rule == "roles.basic.tools.deny[0]"
    assert ask(mine, "database", query="select 1").rule == "roles.basic.tools.deny[1]"


def test_a_team_says_who_is_who_and_keeps_the_roles() -> None:
    mine = extending(
        "team", "principals: [{match: {iss: 'https://login.example.org'}, roles: [member, developer]}]\n"
    )
    args = {"operation": "start", "command": "sleep 9"}
    assert ask(mine, "process", person(iss="https://login.example.org"), **args).effect == "allow"
    assert ask(mine, "process", person(groups=("developers",)), **args).effect == "deny"


def test_a_wheel_ships_every_policy_its_tests_and_both_filters(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(build, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"policies/{name}{end}" for name in PRESETS for end in (".yaml", ".test.yaml")}
    wanted |= {"images/seccomp.json", "images/seccomp-strict.json"}
    assert {f"sandbox_server/_shipped/{each}" for each in wanted} <= names
