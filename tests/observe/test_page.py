"""docs/metrics.md has every metric, with its labels, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase

from sandbox_server.observe.families import Count, Spread
from sandbox_server.observe.metrics import Metrics
from sandbox_server.observe.scrape import Scrape
from sandbox_server.observe.state import State, StateCollector

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(sandbox_\w+)` \| ([^|]*)\|", re.MULTILINE)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def documented() -> dict[str, tuple[str, ...]]:
    return {name: tuple(re.findall(r"`(\w+)`", labels)) for name, labels in ROW.findall(PAGE.read_text())}


def made() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for family in vars(Metrics()).values():
        if isinstance(family, Count | Spread):
            metric: MetricWrapperBase = family.metric
            name = f"{metric._name}_total" if isinstance(family, Count) else metric._name
            found[name] = tuple(metric._labelnames)
    state = StateCollector(lambda: State(sandboxes={"ready": 1}, reloads={"ok": 1}))
    state.refresh()
    for each in state.collect():
        (sample,) = each.samples
        found[sample.name] = tuple(sample.labels)
    return found


def test_the_page_is_the_registry() -> None:
    assert documented() == made()


async def test_what_is_looked_up_is_looked_up_for_each_scrape() -> None:
    seen = 0

    def look() -> State:
        nonlocal seen
        seen += 1
        return State(version="1.2.3", sessions=seen)

    scrape = Scrape(Metrics(), look)
    assert b"sandbox_sessions 1.0\n" in await scrape()
    text = await scrape()
    assert b"sandbox_sessions 2.0\n" in text
    assert b'sandbox_build_info{version="1.2.3"} 1.0\n' in text
