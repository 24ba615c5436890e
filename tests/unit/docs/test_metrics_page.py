"""docs/operate/metrics.md lists the metrics that exist. Run this file to write its tables anew."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector

from builder_service.collector import BuildMetrics, QueueCollector
from common.db.database import Database
from runtime_service.collector import RuntimeCollector
from runtime_service.turns.metrics import TurnMetrics

PAGE = Path(__file__).resolve().parents[3] / "docs" / "operate" / "metrics.md"
_TABLE = re.compile(r"(?<=\| --- \| --- \| --- \| --- \|\n)(?:\|.*\n)*")


def _runtime() -> CollectorRegistry:
    meter = TurnMetrics()
    loop = cast("asyncio.AbstractEventLoop", None)
    meter.registry.register(RuntimeCollector(meter, list, list, loop))
    return meter.registry


def _builder() -> CollectorRegistry:
    meter = BuildMetrics()
    meter.registry.register(QueueCollector(cast("Database", None)))
    return meter.registry


def _described(registry: CollectorRegistry) -> list[tuple[Any, Any]]:
    """What is of the service itself: collectors, each with a family of its own."""
    collectors: list[Any] = [found for found in registry._collector_to_names if type(found) is not ProcessCollector]
    return [(found, family) for found in collectors for family in found.describe()]


def _rows(registry: CollectorRegistry) -> str:
    """The lines of a table: name, type, labels, meaning."""
    return "".join(_row(found, family) for found, family in _described(registry))


def _row(collector: Any, family: Any) -> str:
    names = getattr(family, "_labelnames", ()) or getattr(collector, "_labelnames", ())
    labels = ", ".join(f"`{name}`" for name in names)
    name = f"{family.name}_total" if family.type == "counter" else family.name
    return f"| `{name}` | {family.type} | {labels} | {family.documentation} |\n"


def _tables() -> list[str]:
    return [_rows(_runtime()), _rows(_builder())]


def test_the_page_lists_the_metrics_that_exist() -> None:
    assert _TABLE.findall(PAGE.read_text()) == _tables(), f"write it anew: python {Path(__file__).name}"


@pytest.mark.parametrize(("service", "registry"), [("runtime", _runtime()), ("builder", _builder())])
def test_every_name_is_its_own_and_begins_with_its_service(service: str, registry: CollectorRegistry) -> None:
    names = [family.name for _, family in _described(registry)]
    assert len(set(names)) == len(names)
    assert all(name.startswith(f"sinkserve_{service}_") for name in names)


def test_every_question_asks_for_what_exists() -> None:
    """Names in the page's PromQL, without what a histogram or a counter adds to its name."""
    page = PAGE.read_text()
    questions = page.partition("```promql")[2].partition("```")[0]
    asked = {name.removesuffix("_bucket") for name in re.findall(r"sinkserve_[a-z_]+", questions)}
    listed = set(re.findall(r"^\| `(sinkserve_[a-z_]+)`", page, re.MULTILINE))
    assert asked
    assert asked <= listed


if __name__ == "__main__":
    tables = iter(_tables())
    PAGE.write_text(_TABLE.sub(lambda _: next(tables), PAGE.read_text()))
