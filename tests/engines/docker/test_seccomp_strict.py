"""The strict profile as text: it takes away, and never adds. `tests/hostile` shows it to programs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.engines.docker.seccomp import all_but, load_profiles, load_seccomp
from sandbox_server.errors import ConfigError
from sandbox_server.shipped import shipped

NUMBERS = st.integers(0, 2**32 - 1)


def allowing(profile: str) -> dict[str, Any]:
    rules = json.loads(profile)["syscalls"]
    return {name: rule for rule in rules if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}


def test_strict_allows_no_call_that_default_refuses() -> None:
    profiles = load_profiles()
    default, strict = allowing(profiles["default"]), allowing(profiles["strict"])
    assert strict.keys() < default.keys()
    assert default.keys() - strict.keys() >= {"splice", "tee", "shmget", "mq_open", "seccomp"}
    # What depends on arguments in one does so in the other.
    assert all("args" in strict[name] for name, rule in default.items() if "args" in rule and name in strict)


def test_a_strict_profile_that_adds_a_call_is_refused(tmp_path: Path) -> None:
    more = tmp_path / "more.json"
    more.write_text('{"syscalls": [{"names": ["read", "ptrace"], "action": "SCMP_ACT_ALLOW"}]}')
    with pytest.raises(ConfigError, match="allows ptrace"):
        load_seccomp(shipped("images") / "seccomp.json", more)


@given(values=st.frozensets(NUMBERS, min_size=1, max_size=4), number=NUMBERS)
def test_one_pattern_fits_every_number_but_the_refused_ones(values: frozenset[int], number: int) -> None:
    patterns = list(all_but(values))
    assert all(not any(value & mask == low for mask, low in patterns) for value in values)
    if number not in values:
        assert sum(number & mask == low for mask, low in patterns) == 1


def test_a_number_next_to_a_refused_one_fits() -> None:
    patterns = list(all_but([21522, 21532]))
    fits = Counter(number for number in range(2**16) for mask, low in patterns if number & mask == low)
    assert set(range(2**16)) - fits.keys() == {21522, 21532}
    assert set(fits.values()) == {1}
