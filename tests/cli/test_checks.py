"""What the doctor makes of hosts that this machine is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sandbox_server.access.egress import Authority
from sandbox_server.access.egress.indexes import Indexes
from sandbox_server.cli.checks import Check, disk_check, engine_checks, image_check, policy_check
from sandbox_server.cli.checks_egress import egress_checks
from sandbox_server.cli.checks_indexes import index_checks
from sandbox_server.cli.run import only
from sandbox_server.cli.samples import WORDS
from sandbox_server.config import Settings
from sandbox_server.engines.base import EngineInfo
from sandbox_server.errors import InvalidRequest
from sandbox_server.execution.languages import LANGUAGES
from sandbox_server.images.inventory import ImageStatus, State
from sandbox_server.policy.loader import parse_policy
from sandbox_server.policy.models import Policy

GIB = 1024**3


def policy(runtime: str = "runc", memory: str = "4GiB") -> Policy:
    text = (
        f"schema: sandbox-policy/v1\ndeployment: {{memory: {memory}}}\n"
        f"roles: {{basic: {{code: {{runtime: {runtime}, languages: {{python: {{}}}}}}}}}}\n"
    )
    return parse_policy(text.encode(), source="p.yaml")


def found(
    name: str, *, granted: Policy | None = None, allowed: frozenset[str] = frozenset(), **changes: Any
) -> Check:
    facts = {"runc_version": "1.3.3", "memory_bytes": str(8 * GIB), "security_options": "", **changes}
    info = EngineInfo(
        "docker", "28", facts.pop("runtimes", frozenset({"runc"})), facts.pop("missing", {}), facts
    )
    checks = {check.name: check for check in engine_checks(info, granted or policy(), allowed)}
    return checks[name]


@pytest.mark.parametrize(
    ("version", "named"),
    [
        ("1.1.5+ds1", ["CVE-2024-21626", "CVE-2025-31133"]),
        ("1.1.11", ["CVE-2024-21626", "CVE-2025-31133"]),
        ("1.1.12", ["CVE-2025-31133"]),
        ("1.2.7", ["CVE-2025-31133"]),
        ("1.3.2", ["CVE-2025-31133"]),
        ("v1.2.8", []),
        ("1.3.3", []),
        ("1.4.0", []),
        ("2.0.1", []),
    ],
)
def test_known_bad_versions_of_runc_are_named(version: str, named: list[str]) -> None:
    check = found("runc", runc_version=version)
    assert [name for name in ("CVE-2024-21626", "CVE-2025-31133") if name in check.evidence] == named
    assert check.grade == ("warn" if named else "ok")


def test_an_unknown_version_of_runc_is_not_taken_for_a_good_one() -> None:
    assert found("runc", runc_version="").grade == "warn"


def test_a_limit_that_cannot_be_applied_fails_unless_the_operator_does_without() -> None:
    missing = {"pids": "no pids control group"}
    check = found("limits", missing=missing)
    assert check.grade == "fail"
    assert "no pids control group" in check.evidence
    assert found("limits", missing=missing, allowed=frozenset({"pids"})).grade == "warn"
    assert found("limits", missing=missing, allowed=frozenset({"memory"})).grade == "fail"


def test_a_runtime_that_the_policy_asks_for_must_be_there() -> None:
    assert found("runtimes", granted=policy("runsc")).grade == "fail"
    both = frozenset({"runc", "runsc"})
    assert found("runtimes", granted=policy("runsc"), runtimes=both).grade == "ok"


@pytest.mark.parametrize(("memory", "grade"), [("4GiB", "ok"), ("7GiB", "warn"), ("9GiB", "fail")])
def test_what_is_promised_is_held_against_the_host_s_memory(memory: str, grade: str) -> None:
    assert found("memory", granted=policy(memory=memory)).grade == grade


def test_second_layers_are_advice_and_never_a_failure() -> None:
    assert found("second layers").grade == "warn"
    assert found("second layers", security_options="name=apparmor, name=userns").grade == "ok"


@pytest.mark.parametrize(("state", "grade"), [("present", "ok"), ("stale", "fail"), ("missing", "fail")])
def test_only_images_that_the_policy_uses_are_judged(state: State, grade: str) -> None:
    images = [
        ImageStatus("python", "t", state, None, None, None),
        ImageStatus("node", "t", "missing", None, None, None),
    ]
    check = image_check(images, policy())
    assert check.grade == grade
    assert (f"python is {state}" in check.evidence) is (grade == "fail")


def test_the_disk_is_measured_where_the_nearest_directory_is(tmp_path: Path) -> None:
    assert str(tmp_path) in disk_check(tmp_path / "not" / "there").evidence


ROLES = """
schema: sandbox-policy/v1
principals: [{match: {sub: a}, roles: [a]}, {match: {sub: b}, roles: [b]}]
roles:
  a: {code: {languages: {python: {}, bash: {}}}}
  b: {code: {runtime: runsc, languages: {python: {}, javascript: {}}}}
"""


def test_what_any_role_needs_is_looked_at() -> None:
    several = parse_policy(ROLES.encode(), source="p.yaml")
    assert not several.grants
    assert policy_check(several).evidence.startswith("p.yaml: grants python, bash, javascript in 2 roles;")
    assert list(several.variants()) == ["python", "bash", "python (2)", "javascript"]
    assert found("runtimes", granted=several).grade == "fail"
    node = [ImageStatus("node", "tag", "missing", None, None, None)]
    assert image_check(node, several).grade == "fail"


def test_one_run_needs_no_more_than_its_language() -> None:
    several = parse_policy(ROLES.encode(), source="p.yaml")
    narrow = only(several, "python")
    assert [grant.profile.runtime for grant in (*narrow.grants.values(), *narrow.every_grant)] == ["runc"] * 2
    assert narrow.sizing.warm == 0
    with pytest.raises(InvalidRequest, match="does not grant the language ruby"):
        only(several, "ruby")


def test_the_doctor_knows_a_program_of_every_language() -> None:
    assert WORDS.keys() == LANGUAGES.keys()


def index_check(directory: Path, rule: str) -> Check:
    """Of an index on this host, which no rule reaches unless it opens its address."""

    def ask(command: Sequence[str], environment: Mapping[str, str]) -> str:
        return (
            "--index-url <url>  Base URL (default https://10.1.2.3/simple)"
            if "--help" in command
            else '{"install": []}'
        )

    text = f"""
schema: sandbox-policy/v1
roles: {{basic: {{code: {{egress: packages, languages: {{python: {{}}}}}}}}}}
egress: {{profiles: {{packages: {{allow: [{{hosts: ["@python-index"], {rule}}}]}}}}}}
"""
    (check,) = index_checks(parse_policy(text.encode(), source="p.yaml"), Indexes(directory, ask=ask))
    return check


def test_an_index_behind_a_reserved_address_is_told_with_the_words_that_open_it(tmp_path: Path) -> None:
    check = index_check(tmp_path, "ports: [443]")
    assert check.grade == "fail"
    assert 'egress.profiles.packages: addresses: ["10.1.2.3/32"' in check.fix


def test_an_index_that_a_rule_reaches_is_fine(tmp_path: Path) -> None:
    check = index_check(tmp_path, 'addresses: ["10.1.2.3/32"], terminate: true, cache: true')
    assert check.grade == "ok", check
    assert check.evidence == "profile packages: 10.1.2.3; files are kept on this host"


def egress_found(directory: Path, bundle: Path) -> list[tuple[str, str, str]]:
    text = f"""
schema: sandbox-policy/v1
roles: {{basic: {{code: {{egress: site, languages: {{python: {{}}}}}}}}}}
egress:
  ca_bundle: {bundle}
  profiles:
    site: {{allow: ["example.org:443", {{hosts: ["api.example.org"], ports: [443], terminate: true}}]}}
    spare: {{}}
"""
    settings = Settings.read({}, state_dir=directory / "state")
    checks = egress_checks(parse_policy(text.encode(), source="p.yaml"), settings)
    return [(check.name, check.grade, check.evidence) for check in checks]


def test_the_doctor_tells_of_profiles_and_of_authorities_for_sandboxes(tmp_path: Path) -> None:
    bundle = tmp_path / "gateway.pem"
    bundle.write_bytes(Authority.load(tmp_path / "ca").pem)
    assert egress_found(tmp_path, bundle) == [
        ("egress site", "ok", "hosts: 2, TLS opened by this deployment's own authority"),
        ("egress spare", "warn", "hosts: 0; no role is granted it"),
        ("egress.ca_bundle", "ok", f"certificates: 1, in {bundle}"),
    ]


def test_the_doctor_tells_that_authorities_are_not_there(tmp_path: Path) -> None:
    (*_, (name, grade, evidence)) = egress_found(tmp_path, tmp_path / "none.pem")
    assert (name, grade) == ("egress.ca_bundle", "fail")
    assert "No such file" in evidence
