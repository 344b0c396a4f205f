"""A policy out of several files: `include` and `extends`; each mistake is told with its own file."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox_server.errors import ConfigError
from sandbox_server.policy.dump import dump
from sandbox_server.policy.engine import effective
from sandbox_server.policy.loader import load_policy, parse_policy
from tests.policy.support import person, policy_of, refusal_of

MAIN = """schema: sandbox-policy/v1
include: [b.yaml, a.yaml]
principals:
  - {match: {sub: main}, roles: [main]}
roles:
  main: {code: {languages: {python: {}}}}
"""
A = "principals: [{match: {sub: a}, roles: [a]}]\nroles: {a: {code: {languages: {bash: {}}}}}\n"
B = "principals: [{match: {sub: b}, roles: [a, main]}]\negress: {profiles: {out: {}}}\n"


def written(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        (directory / f"{name}.yaml").write_text(text)
    return directory / "main.yaml"


def refused(file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_policy(file)
    return caught.value.message


def test_included_files_stand_beside_each_other_in_the_order_of_their_names(tmp_path: Path) -> None:
    policy = load_policy(written(tmp_path, main=MAIN, a=A, b=B))
    assert [rule.match.sub for rule in policy.file.principals or ()] == ["main", "a", "b"]
    assert list(effective(policy, person("b", iss=None)).languages) == ["bash", "python"]
    assert list(policy.file.egress.profiles) == ["out"]
    assert parse_policy(dump(policy).encode(), source=policy.source) == policy


@pytest.mark.parametrize(
    ("piece", "complaint"),
    [
        ("roles: {a: {tols: {}}}\n", "a.yaml:1:13: roles.a.tols: unknown key, did you mean 'tools'?"),
        ("roles: {main: {}}\n", "a.yaml:1:9: roles.main: defined twice, first in line 6"),
        ("enforcement: observe\n", "a.yaml:1:1: enforcement: does not belong into an included file"),
        ("principals:\n  - {match: {sub: x}, roles: [nobody]}\n",
         "a.yaml:2:31: principals[1].roles[0]: unknown role"),
        ("roles: [\n", "a.yaml:"),
        ("[]", "a.yaml:1:1: expected a mapping"),
    ],
)  # fmt: skip
def test_a_mistake_in_an_included_file_is_told_with_that_file(
    tmp_path: Path, piece: str, complaint: str
) -> None:
    assert complaint in refused(written(tmp_path, main=MAIN.replace("[b.yaml, a.yaml]", "[a.yaml]"), a=piece))


@pytest.mark.parametrize(
    "name", ["../a.yaml", "/etc/a.yaml", "sub/a.yaml", ".a.yaml", "a.txt", "absent.yaml"]
)
def test_only_files_beside_the_policy_are_included(tmp_path: Path, name: str) -> None:
    (tmp_path / "policy").mkdir()
    for place in (tmp_path, tmp_path / "policy"):
        written(place, a="roles: {a: {}}\n")
    message = refused(written(tmp_path / "policy", main=MAIN.replace("[b.yaml, a.yaml]", f"['{name}']")))
    assert "main.yaml:2:11: include[0]: " in message


def test_nothing_is_included_where_there_is_no_directory() -> None:
    assert "no directory" in refusal_of("{a: {}}", "include: [a.yaml]\n")


def test_a_preset_is_what_a_policy_begins_with() -> None:
    base = policy_of("{basic: {code: {defaults: {wall: 5s}}}}", "extends: default\n")
    python = base.grants["python"]
    assert python.defaults.wall == 5
    assert python.profile.limits.memory == 512 * 1024**2
    assert "typescript" in base.grants
    assert parse_policy(dump(base).encode(), source=base.source) == base


def test_a_presets_tests_are_not_those_of_what_extends_it(tmp_path: Path) -> None:
    main = "schema: sandbox-policy/v1\nextends: default\n"
    assert load_policy(written(tmp_path, main=main)).file.tests == ()
    own = main + "tests: [own.test.yaml]\n"
    assert load_policy(written(tmp_path, main=own)).file.tests == ("own.test.yaml",)


def test_what_a_preset_denies_stays_denied() -> None:
    from sandbox_server.policy.document import parse
    from sandbox_server.policy.sources import Sources

    preset = b"roles: {a: {tools: {allow: [database], deny: [process]}}}"
    own = b"extends: x\nroles: {a: {tools: {allow: [web_api], deny: [sandbox]}}}"
    document = Sources(None, lambda name: preset, ["x"]).gather(own, "p.yaml")
    assert document.data == {
        "roles": {"a": {"tools": {"allow": ("web_api",), "deny": ("process", "sandbox")}}}
    }
    second = ("roles", "a", "tools", "deny", 1)
    assert document.mark(second) == parse(own, "p.yaml").mark(("roles", "a", "tools", "deny", 0))


def test_an_unknown_preset_and_presets_in_a_circle_are_refused() -> None:
    from sandbox_server.policy.document import Malformed
    from sandbox_server.policy.sources import Sources

    assert "extends: unknown preset, did you mean 'default'?" in refusal_of("{a: {}}", "extends: defualt\n")
    with pytest.raises(Malformed, match="too deep"):
        Sources(None, lambda name: b"extends: x", ["x"]).gather(b"extends: x", "p.yaml")


def test_a_problem_is_told_with_the_file_that_says_it() -> None:
    message = refusal_of("{basic: {code: {defaults: {wall: 3m}}}}", "extends: default\n")
    assert (
        message == "p.yaml:2:41: roles.basic.code.defaults.wall: 180s is above ceilings.wall, which is 120s"
    )
    assert "preset default:" in refusal_of("{}", "extends: default\nceilings: {memory: 64MiB}\n")
