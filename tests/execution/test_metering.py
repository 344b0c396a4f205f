"""What background processes have used, by the books of one sandbox."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.execution.metering import Meter
from sandbox_server.execution.process_models import ProcessView


def process(*, running: bool, name: str = "p1-0000") -> ProcessView:
    return ProcessView(name, "true", running, None, None, False, 0.0, 0, None)


STEPS = st.lists(st.tuples(st.sampled_from(["run", "idle", "read"]), st.integers(0, 10**7)), max_size=40)


@given(STEPS)
def test_what_no_run_was_told_is_the_background_processes(steps: list[tuple[str, int]]) -> None:
    charged: list[float] = []
    meter = Meter(1.0)
    meter.charge = charged.append
    total, background = 5_000_000, 0
    meter.read(total, [process(running=True)])
    for kind, amount in steps:
        if kind == "run":
            total += amount
            meter.ran(amount)
        elif kind == "idle":
            total += amount
            background += amount
        else:
            meter.read(total, [])
    meter.read(total, [process(running=False)])
    assert round(sum(charged) * 1e6) == background
    meter.end()
    assert round(sum(charged) * 1e6) == background, "nothing runs that could have used more"


def test_what_nobody_has_read_is_all_that_it_can_have_been() -> None:
    charged: list[float] = []
    meter = Meter(2.0)
    meter.charge = charged.append
    meter.read(1_000_000, [process(running=True)])
    assert meter.active
    meter.end()
    meter.end()
    (most,) = charged
    assert most > 0
    assert not meter.active


def test_a_process_that_its_runner_has_forgotten_uses_nothing_more() -> None:
    charged: list[float] = []
    meter = Meter(2.0)
    meter.charge = charged.append
    meter.read(0, [process(running=True)])
    asked = meter.running
    meter.read(0, [process(running=True, name="p2-0000")])  # it was started after the list was asked for
    meter.read(0, [], asked)
    assert meter.running == {"p2-0000"}
    meter.read(0, [], meter.running)
    meter.end()
    assert (meter.active, sum(charged)) == (False, 0.0)


def test_a_runner_gives_back_no_more_than_was_counted_of_it() -> None:
    charged: list[float] = []
    meter = Meter(1.0)
    meter.charge = charged.append
    meter.read(10**12, [process(running=True)])
    meter.read(10**12 + 1_000_000, [])
    meter.read(0, [])
    assert charged == [1.0, -1.0]


def test_the_time_of_a_run_that_was_counted_while_it_ran_is_given_back_though_no_process_is_left() -> None:
    charged: list[float] = []
    meter = Meter(1.0)
    meter.charge = charged.append
    meter.read(0, [process(running=True)])
    meter.read(3_000_000, [process(running=False)])  # of the run that is under way
    assert not meter.active
    meter.ran(3_000_000)
    assert meter.active, "somebody has to read it"
    meter.read(3_000_000, [])
    assert (meter.active, sum(charged)) == (False, 0.0)
