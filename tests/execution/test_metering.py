"""What background processes have used, by the books of one sandbox."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.execution.metering import Meter
from sandbox_server.execution.process_models import ProcessView


def process(*, running: bool, name: str = "p1-0000") -> ProcessView:
    return ProcessView(name, "true", running, None, None, False, 0.0, 0, None)


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=40))
def test_what_is_charged_is_what_was_read_and_never_less_than_nothing(readings: list[int]) -> None:
    charged: list[float] = []
    meter = Meter(1.0)
    meter.charge = charged.append
    for reading in readings:
        meter.read(reading, [process(running=True)])
    meter.read(readings[-1], [process(running=False)])
    assert all(each >= 0 for each in charged)
    assert round(sum(charged) * 1e6) == max(readings) - readings[0]
    before = list(charged)
    meter.end()
    assert charged == before, "nothing runs that could have used more"


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
