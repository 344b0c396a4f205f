from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sandbox_server.engines.profile import MIB
from sandbox_server.errors import ConfigError
from sandbox_server.policy.loader import load_policy, parse_policy
from sandbox_server.policy.models import Policy

SHIPPED = Path(__file__).parents[2] / "policies"

HOST = 8192 * MIB
MINIMAL = "schema: sandbox-policy/v1\nroles: {basic: {code: {languages: {python: {}}}}}\n"


def loaded(text: str) -> Policy:
    return parse_policy(text.encode(), source="p.yaml", host_memory=HOST)


def refusal(text: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_policy(text.encode() if isinstance(text, str) else text, source="p.yaml", host_memory=HOST)
    return caught.value.message


def with_code(code: str, rest: str = "") -> str:
    return f"schema: sandbox-policy/v1\n{rest}roles:\n  basic:\n    code:\n      {code}\n"


def test_the_default_policy_loads_on_a_small_host() -> None:
    assert load_policy(SHIPPED / "default.yaml", host_memory=1024 * MIB).sizing.memory == 614 * MIB + 419430


def test_a_minimal_policy_grants_its_language_with_the_built_in_limits() -> None:
    policy = loaded(MINIMAL)
    assert list(policy.grants) == ["python"]
    assert policy.role == "basic"
    assert policy.grants["python"].profile.image == "python"
    assert policy.grants["python"].profile.limits.memory == 256 * MIB
    assert policy.grants["python"].profile.revision == policy.revision


def test_units_become_bytes_and_seconds() -> None:
    policy = loaded(
        with_code(
            "{defaults: {wall: 1500ms, cpu: 2s, memory: 0.5GiB, inodes: 4k, output: 64KiB},"
            " languages: {python: {}}}",
            "deployment: {queue_wait: 2m, session_ttl: 1h}\n",
        )
    )
    python = policy.grants["python"]
    assert (python.defaults.wall, python.defaults.cpu) == (1.5, 2.0)
    assert python.profile.limits.memory == 512 * MIB
    assert python.profile.limits.inodes == 4096
    assert python.defaults.output == 64 * 1024
    assert (policy.sizing.queue_wait, policy.sizing.session_ttl) == (120.0, 3600.0)


def test_a_deployment_says_how_much_runs_may_leave_behind_and_how_long() -> None:
    assert (loaded(MINIMAL).sizing.store, loaded(MINIMAL).sizing.store_ttl) == (256 * MIB, 900.0)
    policy = loaded(MINIMAL + "deployment: {store: 0B, store_ttl: 1h}\n")
    assert (policy.sizing.store, policy.sizing.store_ttl) == (0, 3600.0)
    assert "deployment.store: 5: has no unit" in refusal(MINIMAL + "deployment: {store: 5}\n")
    assert "the least is 1s" in refusal(MINIMAL + "deployment: {store_ttl: 10ms}\n")


def test_a_language_overrides_the_defaults_and_inherits_the_rest() -> None:
    policy = loaded(
        with_code(
            "{runtime: runsc, defaults: {pids: 32, tmp: 8MiB}, languages: {bash: {pids: 16}, python: {}}}"
        )
    )
    assert policy.grants["bash"].profile.limits.pids == 16
    assert policy.grants["python"].profile.limits.pids == 32
    assert policy.grants["bash"].profile.limits.tmp == 8 * MIB
    assert {grant.profile.runtime for grant in policy.grants.values()} == {"runsc"}


def test_ceilings_bound_what_a_caller_may_ask_for_and_lower_the_built_in_defaults() -> None:
    policy = loaded("ceilings: {wall: 5s, cpu: 4s, output: 8KiB}\n" + MINIMAL)
    python = policy.grants["python"]
    assert (python.ceiling.wall, python.ceiling.cpu, python.ceiling.output) == (5, 4, 8192)
    assert (python.defaults.wall, python.defaults.cpu, python.defaults.output) == (5, 4, 8192)


def test_ceilings_are_the_most_that_a_session_may_have() -> None:
    ceilings = "ceilings: {memory: 512MiB, pids: 100, workspace: 128MiB, cpus: 1.5}\n"
    grant = loaded(with_code("{languages: {python: {}}}", ceilings)).grants["python"]
    assert grant.widest is not None
    widest = grant.widest
    assert (widest.memory, widest.pids, widest.workspace, widest.cpus) == (512 * MIB, 100, 128 * MIB, 1.5)
    assert grant.profile.limits.memory == 256 * MIB


def test_without_a_ceiling_for_cpus_a_session_may_have_what_its_language_has() -> None:
    grant = loaded(with_code("{languages: {python: {cpus: 3}}}")).grants["python"]
    assert grant.widest is not None
    assert grant.widest.cpus == 3
    assert "above ceilings.cpus, which is 2" in refusal(
        with_code("{languages: {python: {cpus: 3}}}", "ceilings: {cpus: 2}\n")
    )


def test_what_one_principal_may_have_is_the_policys() -> None:
    sizing = loaded(f"{MINIMAL}deployment: {{sessions_per_principal: 3, runs_per_principal: 7}}\n").sizing
    assert (sizing.sessions_per_principal, sizing.runs_per_principal) == (3, 7)
    assert "did you mean 'runs_per_principal'?" in refusal(f"{MINIMAL}deployment: {{run_per_principal: 7}}\n")
    assert "too small" in refusal(f"{MINIMAL}deployment: {{runs_per_principal: 0}}\n")


def test_the_revision_ignores_layout_and_follows_meaning() -> None:
    spread = "# why\nroles:\n  basic:\n    code:\n      languages:\n        python: {}\n"
    spread += "schema: sandbox-policy/v1\n"
    assert loaded(spread).revision == loaded(MINIMAL).revision
    assert loaded(MINIMAL + "ceilings: {wall: 61s}\n").revision != loaded(MINIMAL).revision


def test_a_mistyped_key_is_named_with_its_place_and_the_likely_meaning() -> None:
    message = refusal(with_code("languages: {python: {memroy: 1MiB}}"))
    assert message == (
        "p.yaml:5:28: roles.basic.code.languages.python.memroy: unknown key, did you mean 'memory'?"
    )


def test_every_problem_is_reported_at_once_in_the_order_of_the_file() -> None:
    lines = refusal(
        with_code("{defaults: {wall: 60, pids: 3}, languages: {python: {preload: 1}}}")
    ).splitlines()
    assert [line.split(": ")[1].rpartition(".")[2] for line in lines] == ["wall", "pids", "preload"]


@pytest.mark.parametrize(
    ("limit", "complaint"),
    [
        ("wall: 60", "60: has no unit"),
        ("wall: '60'", "'60': has no unit"),
        ("wall: 60sec", "unknown unit of time"),
        ("wall: -1s", "expected a time"),
        ("wall: 0s", "too small"),
        ("wall: 1e9s", "expected a time"),
        ("wall: 999999999h", "too large"),
        ("wall: 1:30", "expected a time"),
        ("memory: 64M", "did you mean '64MiB'?"),
        ("memory: 64k", "did you mean '64KiB'?"),
        ("memory: 1MB", "did you mean '1MiB'?"),
        ("memory: 268435456", "has no unit"),
        ("memory: 0.0001KiB", "whole number of bytes"),
        ("memory: true", "true: expected a size"),
        ("inodes: 16KiB", "expected a number such as 4096 or 16k"),
        ("pids: 1.5", "expected a number"),
        ("cpus: '1'", "number"),
        ("cpus: 0", "too small"),
    ],
)
def test_a_wrong_quantity_is_refused_with_what_is_wrong(limit: str, complaint: str) -> None:
    assert complaint in refusal(with_code(f"{{defaults: {{{limit}}}, languages: {{python: {{}}}}}}"))


@pytest.mark.parametrize(
    ("limit", "ceiling"),
    [("wall: 61s", "wall"), ("cpu: 61s", "cpu"), ("memory: 2GiB", "memory"), ("pids: 257", "pids"),
     ("output: 5MiB", "output"), ("workspace: 257MiB, memory: 1GiB", "workspace")],
)  # fmt: skip
def test_a_limit_above_its_ceiling_is_refused(limit: str, ceiling: str) -> None:
    message = refusal(with_code(f"{{defaults: {{{limit}}}, languages: {{python: {{}}}}}}"))
    assert f"roles.basic.code.defaults.{ceiling}: " in message
    assert f"is above ceilings.{ceiling}" in message


def test_writable_memory_file_systems_must_fit_into_memory() -> None:
    message = refusal(with_code("{defaults: {memory: 128MiB, workspace: 100MiB}, languages: {python: {}}}"))
    assert "148MiB together" in message
    assert "128MiB" in message


def test_what_waits_warm_must_fit_into_the_deployment() -> None:
    assert "only 1 may exist" in refusal(MINIMAL + "deployment: {sandboxes: 1}\n")
    assert "256MiB is less than" in refusal(MINIMAL + "deployment: {memory: 256MiB}\n")


def test_a_share_of_the_host_s_memory_fits_hosts_of_any_size() -> None:
    assert loaded(MINIMAL + "deployment: {memory: 25%}\n").sizing.memory == HOST // 4
    assert loaded(MINIMAL + "deployment: {memory: 5%, warm: 4}\n").sizing.memory < 4 * 256 * MIB
    assert "for the largest sandbox" in refusal(MINIMAL + "deployment: {memory: 1%}\n")
    for wrong in ("0%", "100%", "-5%", "5.5%", "%", "8"):
        assert "1% to 99%" in refusal(MINIMAL + f"deployment: {{memory: '{wrong}'}}\n")


def test_the_revision_does_not_depend_on_the_host() -> None:
    text = (MINIMAL + "deployment: {memory: 50%}\n").encode()
    small, large = (parse_policy(text, source="p.yaml", host_memory=size) for size in (HOST, 4 * HOST))
    assert small.revision == large.revision
    assert small.sizing.memory != large.sizing.memory


@pytest.mark.parametrize(
    ("languages", "complaint"),
    [("{py: {}}", "did you mean 'python'?"), ("{cobol: {}}", "known are python"), ("{}", "names no language"),
     ("{bash: {preload: [os]}}", "only python"), ("{python: {preload: ['os; x']}}", "not a valid name"),
     ("{python: {image: '../x'}}", "not a valid name"), ("{python: }", "expected a mapping")],
)  # fmt: skip
def test_a_wrong_language_is_refused(languages: str, complaint: str) -> None:
    assert complaint in refusal(with_code(f"languages: {languages}"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "the file is empty"),
        ("# only a comment", "the file is empty"),
        ("[]", "expected a mapping"),
        (MINIMAL + "---\n" + MINIMAL, "second document"),
        ("a: 1\na: 1\n", "p.yaml:2:1: a: duplicate key, first on line 1"),
        ("a: &x 1\n", "anchors"),
        ("a: *x\n", "anchors"),
        ("a: !!python/object/apply:os.system ['id']\n", "tags are not allowed"),
        ("a: !env X\n", "tags are not allowed"),
        ("a: yes\n", "can mean a boolean"),
        ("no: 1\n", "can mean a boolean"),
        ("a: Off\n", "can mean a boolean"),
        ("1: 2\n", "a key must be text"),
        ("? [a]\n: 1\n", "a key must be text"),
        (b"\xff\xfe", "not UTF-8"),
        (b"a: \x00", "does not allow"),
        ('a: "\\UFFFFFFFF"', "escape"),
        ("a: [", "p.yaml:1:5"),
        ("schema: sandbox-policy/v2\nroles: {}\n", "expected 'sandbox-policy/v1'"),
        ("schema: sandbox-policy/v1\nroles: {}\n", "names no role"),
        (" " * (1024 * 1024 + 1), "larger than 1024 KiB"),
    ],
)  # fmt: skip
def test_what_is_not_strict_yaml_is_refused(text: str | bytes, complaint: str) -> None:
    assert complaint in refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        "{a: " * 50_000,
        "- " * 50_000,
        "a:\n" + "".join(" " * n + "b:\n" for n in range(1, 900)),
    ],
)
def test_deep_nesting_is_an_error_and_not_a_traceback(text: str) -> None:
    assert "nested more than 32 deep" in refusal(text)


def test_an_absent_file_and_a_directory_are_refused_by_name(tmp_path: Path) -> None:
    for file in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(ConfigError, match=str(file)):
            load_policy(file, host_memory=HOST)


def test_a_refusal_is_safe_to_print_whatever_the_keys_hold() -> None:
    assert "\x1b" not in refusal('schema: sandbox-policy/v1\n"a\\e[31m": 1\nroles: {}\n')


YAML_PIECES = st.lists(
    st.sampled_from(
        ["schema: sandbox-policy/v1", "roles:", "  basic:", "    code:", "      languages:", "python: {}",
         "\n", "{", "}", "[", "]", ":", ",", "- ", "&a", "*a", "!!str ", "'", '"', "|", ">", "%YAML 1.1\n",
         "---", "...", "\t", "  ", "wall: 1s", "deployment:", "ceilings:", "? ", "#", "\\U", "0x1",
         "9" * 5000, "\u2028", "yes"]
    ),
    max_size=40,
).map("".join)  # fmt: skip


@settings(max_examples=300)
@given(
    st.one_of(
        st.binary(max_size=400),
        st.text(max_size=200).map(lambda t: t.encode("utf-8", "surrogatepass")),
        YAML_PIECES.map(str.encode),
    )
)
@example(b"%YAML " + b"9" * 5000 + b".1\n--- a")
@example(b"%TAG ! !\n--- !x a")
def test_any_bytes_give_a_policy_or_a_config_error(raw: bytes) -> None:
    try:
        said = parse_policy(raw, source="p.yaml", host_memory=HOST).revision
    except ConfigError as error:
        said = error.message
    assert said.startswith(("p.yaml:", "sha256:"))


def test_languages_with_the_same_image_and_limits_share_one_profile() -> None:
    policy = parse_policy(
        b"""
schema: sandbox-policy/v1
roles:
  basic:
    code:
      languages:
        python: {memory: 512MiB, preload: [json]}
        bash: {image: python, memory: 512MiB}
        javascript: {memory: 512MiB}
""",
        source="p.yaml",
    )
    python, bash, javascript = (policy.grants[name].profile for name in ("python", "bash", "javascript"))
    assert bash == python
    assert bash.preload == ("json",)
    assert javascript != python


def test_a_limit_of_its_own_gives_a_language_a_profile_of_its_own() -> None:
    policy = parse_policy(
        b"""
schema: sandbox-policy/v1
roles:
  basic:
    code:
      languages:
        python: {memory: 512MiB, preload: [json]}
        bash: {image: python, memory: 256MiB}
""",
        source="p.yaml",
    )
    assert policy.grants["bash"].profile != policy.grants["python"].profile
    assert policy.grants["bash"].profile.preload == ()


PROFILE = "egress: {profiles: {p: {allow: ['a.example.org:443']}}}\n"
CODE = "languages: {python: {}}"


@pytest.mark.parametrize(
    "roles",
    [
        f"{{a: {{code: {{{CODE}, seccomp: strict, egress: p}}}}}}",
        f"{{b: {{code: {{seccomp: strict, {CODE}}}}}, a: {{inherits: [b], code: {{egress: p}}}}}}",
        f"{{b: {{code: {{seccomp: strict, {CODE}}}}}, a: {{code: {{egress: p, {CODE}}}}}}}",
    ],
    ids=["one role", "inherited", "one principal"],
)
def test_a_way_out_and_a_filter_without_network_sockets_do_not_go_together(roles: str) -> None:
    who = "principals: [{match: {any: authenticated}, roles: [a, b]}]\n"
    who = who if "b:" in roles else who.replace(", b", "")
    text = f"schema: sandbox-policy/v1\n{who}roles: {roles}\n{PROFILE}"
    message = refusal(text)
    assert message.count("roles.a.code.egress: seccomp: strict") == 1
    assert "allows no network socket" in message
    assert "write none, or seccomp: default" in message
    assert loaded(text.replace("strict", "default")).every_grant[0].profile.seccomp == "default"
    assert loaded(text.replace("egress: p", "egress: none")).every_grant[0].profile.seccomp == "strict"


@pytest.mark.parametrize("number", ["65", "-1"])
def test_no_more_files_can_be_promised_than_a_runner_names(number: str) -> None:
    assert "files_out" in refusal(with_code(f"defaults: {{files_out: {number}}}\n      {CODE}"))
    assert loaded(with_code(f"defaults: {{files_out: 64}}\n      {CODE}")).grants["python"].files_out == 64
