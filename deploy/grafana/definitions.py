"""The metrics that both services and the door for HTTP have, as their own code defines them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

from prometheus_client import CollectorRegistry, ProcessCollector

from builder_service.collector import BuildMetrics, QueueCollector
from common.db.database import Database
from runtime_service.collector import RuntimeCollector
from runtime_service.turns.metrics import TurnMetrics
from sinkserve.web.request_log import RequestLog


@dataclass(frozen=True)
class Definition:
    """One metric. `kind` is counter, gauge or histogram; `name` is that of its series, without `_bucket`."""

    name: str
    kind: str
    labels: tuple[str, ...]
    what: str


def runtime_definitions() -> list[Definition]:
    """Metrics of a runtime, in the order of its code."""
    meter = TurnMetrics()
    meter.registry.register(RuntimeCollector(meter, list, list, cast("asyncio.AbstractEventLoop", None)))
    return _definitions(meter.registry)


def builder_definitions() -> list[Definition]:
    """Metrics of a builder, in the order of its code."""
    meter = BuildMetrics()
    meter.registry.register(QueueCollector(cast("Database", None)))
    return _definitions(meter.registry)


def web_definitions() -> list[Definition]:
    """Metrics of `sinkserve web`, in the order of its code."""
    return _definitions(RequestLog().registry)


def all_definitions() -> dict[str, Definition]:
    """Metrics of all, by name."""
    return {found.name: found for found in (*runtime_definitions(), *builder_definitions(), *web_definitions())}


def _definitions(registry: CollectorRegistry) -> list[Definition]:
    """What is of the service itself: collectors, each with families of its own."""
    collectors: list[Any] = [found for found in registry._collector_to_names if type(found) is not ProcessCollector]  # noqa: SLF001 - no other way to ask a registry
    return [_definition(found, family) for found in collectors for family in found.describe()]


def _definition(collector: Any, family: Any) -> Definition:  # noqa: ANN401 - of several classes of the library
    labels = getattr(family, "_labelnames", ()) or getattr(collector, "_labelnames", ())
    name = f"{family.name}_total" if family.type == "counter" else family.name
    return Definition(name, family.type, tuple(labels), family.documentation)
