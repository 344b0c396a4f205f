"""What of a server is looked up when somebody asks: gauges, and counts that others keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sandbox_server.observe.families import shown


@dataclass(frozen=True, slots=True)
class State:
    """Of this moment. `sandboxes`: how many are in which state. `reloads`: how many had which result."""

    version: str = ""
    revision: str = ""
    sandboxes: Mapping[str, int] = field(default_factory=dict)
    wanted: int = 0
    waiting: int = 0
    sessions: int = 0
    engine_up: bool = True
    tunnels: int = 0
    reloads: Mapping[str, int] = field(default_factory=dict)
    log_up: bool = True
    log_lost: int = 0
    log_waiting: int = 0


class StateCollector(Collector):
    """`look` is called on the event loop, before a scrape; what it gave is told until it is called again."""

    def __init__(self, look: Callable[[], State]) -> None:
        self._look = look
        self._state = State()

    def refresh(self) -> None:
        self._state = self._look()

    def collect(self) -> Iterable[Metric]:
        now = self._state
        yield _info("sandbox_build_info", "The server; always 1.", {"version": now.version})
        yield _info("sandbox_policy_info", "The policy in force; always 1.", {"revision": now.revision})
        yield _counts("sandbox_policy_reloads", "Times that the policy was read anew.", "result", now.reloads)
        yield _gauge("sandbox_engine_up", "Whether the engine makes sandboxes.", now.engine_up)
        yield _states(
            "sandbox_pool_sandboxes", "Sandboxes that there are, by what they do.", "state", now.sandboxes
        )
        yield _gauge("sandbox_pool_wanted", "Sandboxes that are to be ready.", now.wanted)
        yield _gauge("sandbox_pool_waiting", "Calls that wait for a sandbox.", now.waiting)
        yield _gauge("sandbox_sessions", "Sessions that are live.", now.sessions)
        yield _gauge("sandbox_egress_tunnels", "Connections out of sandboxes that are open.", now.tunnels)
        yield _gauge("sandbox_decision_log_up", "Whether the decision log can be written.", now.log_up)
        yield _gauge("sandbox_decision_log_waiting", "Its lines that wait to be written.", now.log_waiting)
        lost = CounterMetricFamily("sandbox_decision_log_lost", "Its lines that could not be written.")
        lost.add_metric((), now.log_lost)
        yield lost


def _info(name: str, help: str, labels: Mapping[str, str]) -> Metric:
    made = GaugeMetricFamily(name, help, labels=list(labels))
    made.add_metric([shown(value) for value in labels.values()], 1)
    return made


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help, value=float(value))


def _states(name: str, help: str, label: str, values: Mapping[str, int]) -> Metric:
    made = GaugeMetricFamily(name, help, labels=[label])
    for each, value in values.items():
        made.add_metric([each], value)
    return made


def _counts(name: str, help: str, label: str, values: Mapping[str, int]) -> Metric:
    made = CounterMetricFamily(name, help, labels=[label])
    for each, value in values.items():
        made.add_metric([each], value)
    return made
