"""From how a job ended to what is said about it."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.engines.base import Death
from sandbox_server.errors import SandboxLost
from sandbox_server.execution.jobs import CloseReport, Exit, HostCause
from sandbox_server.execution.outcomes import Verdict, judge, signal_name


def ended(host_cause: HostCause | None = None, **changes: Any) -> Exit:
    facts: dict[str, Any] = {
        "exit_code": 0,
        "signal": None,
        "cause": None,
        "cpu_us": 1000,
        "peak_memory": None,
        "oom_kills": 0,
        "full": [],
        "alone": True,
        "stage": "run",
        "interpreter": None,
        "fresh": False,
    }
    return Exit(CloseReport(**facts | changes), None, host_cause, 1.0)


def died(host_cause: HostCause | None = None, *, oom: bool = False, reason: str = "why") -> Exit:
    return Exit(None, Death(137, oom, reason), host_cause, 1.0)


@pytest.mark.parametrize(
    ("exit", "verdict"),
    [
        (ended(), Verdict("ok", None, 0)),
        (ended(exit_code=3), Verdict("error", None, 3)),
        (ended(exit_code=137), Verdict("error", None, 137)),
        (ended(exit_code=None, signal=9), Verdict("signal", None, None, "SIGKILL")),
        (ended(exit_code=None, signal=11), Verdict("signal", None, None, "SIGSEGV")),
        (ended(exit_code=None, signal=9, oom_kills=1), Verdict("out_of_memory", "memory", None, "SIGKILL")),
        (ended(oom_kills=1), Verdict("out_of_memory", "memory", 0)),
        (ended(exit_code=1, full=["/tmp"]), Verdict("disk_full", "disk", 1)),
        (ended(full=["/tmp"]), Verdict("ok", None, 0)),
        (ended(exit_code=1, stage="build"), Verdict("compile_error", None, 1)),
        (ended(exit_code=None, signal=11, stage="build"), Verdict("compile_error", None, None, "SIGSEGV")),
        (ended(exit_code=1, stage="build", full=["/tmp"]), Verdict("disk_full", "disk", 1)),
        (ended(exit_code=1, stage="build", oom_kills=1), Verdict("out_of_memory", "memory", 1)),
        (ended("wall", exit_code=None, signal=9, stage="build"), Verdict("timeout", "wall", None, "SIGKILL")),
        (ended(exit_code=None, signal=9, cause="cpu"), Verdict("timeout", "cpu", None, "SIGKILL")),
        (
            ended(exit_code=None, signal=signal.SIGXCPU, cause="cpu"),
            Verdict("timeout", "cpu", None, "SIGXCPU"),
        ),
        # A program can send itself any signal: only the runner's count of CPU time says timeout.
        (ended(exit_code=None, signal=signal.SIGXCPU), Verdict("signal", None, None, "SIGXCPU")),
        (ended("wall", exit_code=None, signal=9), Verdict("timeout", "wall", None, "SIGKILL")),
        (ended("output", exit_code=None, signal=9), Verdict("output_limit", "output", None, "SIGKILL")),
        (ended(exit_code=None, signal=9, cause="cancelled"), Verdict("cancelled", None, None, "SIGKILL")),
        # What we did to it comes before what else is true of it.
        (ended("wall", signal=9, exit_code=None, oom_kills=2), Verdict("timeout", "wall", None, "SIGKILL")),
        (died("wall"), Verdict("timeout", "wall")),
        (died("output"), Verdict("output_limit", "output")),
        (died(oom=True), Verdict("out_of_memory", "memory")),
        (died("wall", oom=True), Verdict("timeout", "wall")),
    ],
)
def test_every_ending_has_its_verdict(exit: Exit, verdict: Verdict) -> None:
    assert judge(exit) == verdict


@pytest.mark.parametrize(
    ("exit", "outcome"),
    [
        (ended(exit_code=1), "disk_full"),
        (ended(), "ok"),
        (ended(exit_code=None, signal=9), "signal"),
        (ended("wall", exit_code=1), "timeout"),
        (ended(exit_code=1, oom_kills=1), "out_of_memory"),
    ],
)
def test_what_a_program_says_of_itself_explains_an_error_and_nothing_else(exit: Exit, outcome: str) -> None:
    assert judge(exit, no_space=True).outcome == outcome


def test_a_sandbox_that_died_for_no_known_reason_is_no_outcome() -> None:
    with pytest.raises(SandboxLost) as lost:
        judge(died(reason="the runner ended with exit code 1"))
    assert "exit code 1" in lost.value.message
    assert "may have run" in lost.value.hint
    assert not lost.value.retry_safe


@given(
    st.none() | st.integers(0, 255),
    st.none() | st.integers(1, 64),
    st.sampled_from([None, "cpu", "cancelled"]),
    st.integers(0, 3),
    st.integers(0, 1),
    st.lists(st.just("/tmp"), max_size=1),
    st.sampled_from([None, "wall", "output", "cancelled"]),
)
def test_ok_is_said_only_of_what_ended_by_itself_with_zero(
    code: int | None,
    number: int | None,
    cause: Any,
    oom: int,
    unsure: int,
    full: list[str],
    host: HostCause | None,
) -> None:
    kills = {"oom_kills": oom, "oom_unsure": unsure}
    verdict = judge(ended(host, exit_code=code, signal=number, cause=cause, full=full, **kills))
    clean = code == 0 and number is None and cause is None and oom + unsure == 0 and host is None
    assert (verdict.outcome == "ok") == clean


@pytest.mark.parametrize(
    ("number", "name"),
    [(None, None), (9, "SIGKILL"), (34, "SIGRTMIN"), (37, "SIGRTMIN+3"), (0, "signal 0"), (99, "signal 99")],
)
def test_signals_have_names(number: int | None, name: str | None) -> None:
    assert signal_name(number) == name
