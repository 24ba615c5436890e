"""Metrics over HTTP: served, turned off, refused; and what is read at each scrape."""

from __future__ import annotations

import asyncio
import socket
import urllib.error
from collections.abc import Iterable, Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from structlog.testing import capture_logs

from common.rpc import metrics_server
from common.rpc.metrics_server import MetricsServer, Pulled, in_loop, new_registry, start_metrics
from tests.servers.scrape import scrape, scraped

VARIABLE = "SINKSERVE_TEST_METRICS_LISTEN"


class Level(Pulled):
    """One gauge; reading it may fail."""

    def __init__(self, name: str = "level") -> None:
        self.name = name
        self.value: float | None = 1.0

    def families(self) -> tuple[Metric, ...]:
        return (GaugeMetricFamily(self.name, "How high."),)

    def read(self) -> Iterable[Metric]:
        if self.value is None:
            raise RuntimeError("no gauge")
        yield GaugeMetricFamily(self.name, "How high.", self.value)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def server(registry: CollectorRegistry) -> Iterator[MetricsServer]:
    server = start_metrics("127.0.0.1:0", VARIABLE, registry)
    yield server
    server.stop()


def test_a_scrape_has_what_was_counted(registry: CollectorRegistry, server: MetricsServer) -> None:
    counter = Counter("found", "Found.", registry=registry)
    assert scrape(server.address)["found_total"] == 0
    counter.inc(3)
    assert scrape(server.address).samples == {("found_total", frozenset()): 3.0}


def test_once_stopped_it_does_not_listen(server: MetricsServer) -> None:
    server.stop()
    server.stop()
    with pytest.raises(urllib.error.URLError, match="refused"):
        scrape(server.address)


def test_an_empty_address_serves_nothing(registry: CollectorRegistry) -> None:
    server = start_metrics("", VARIABLE, registry)
    assert server == MetricsServer("", None)
    server.stop()


@pytest.mark.parametrize("taken", [True, False])
def test_an_address_that_cannot_be_had_names_the_variable(taken: bool, registry: CollectorRegistry) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        listen = f"127.0.0.1:{busy.getsockname()[1]}" if taken else "192.0.2.1:0"
        with pytest.raises(OSError, match=f"^{VARIABLE}: cannot serve metrics on {listen}: .*; choose another"):
            start_metrics(listen, VARIABLE, registry)


def test_a_registry_knows_its_process() -> None:
    server = start_metrics("127.0.0.1:0", VARIABLE, new_registry())
    try:
        assert scrape(server.address)["process_resident_memory_bytes"] > 1 << 20
    finally:
        server.stop()


def test_what_is_pulled_is_read_anew(registry: CollectorRegistry, server: MetricsServer) -> None:
    registry.register(level := Level())
    assert scrape(server.address)["level"] == 1
    level.value = 2
    assert scrape(server.address)["level"] == 2


def test_what_cannot_be_read_is_left_out_and_logged(registry: CollectorRegistry, server: MetricsServer) -> None:
    registry.register(level := Level())
    registry.register(Level("other"))
    level.value = None
    with capture_logs() as logged:
        assert set(scrape(server.address).samples) == {("other", frozenset())}
    assert [(entry["event"], entry["metrics"]) for entry in logged] == [("metrics.unreadable", ["level"])]


def test_a_name_is_taken_once(registry: CollectorRegistry) -> None:
    registry.register(Level())
    with pytest.raises(ValueError, match="level"):
        registry.register(Level())


async def test_the_loop_answers_a_scrape(registry: CollectorRegistry, server: MetricsServer) -> None:
    loop = asyncio.get_running_loop()
    gauge = Level()
    gauge.read = lambda: in_loop(loop, lambda: [GaugeMetricFamily("tasks", "", len(asyncio.all_tasks()))])  # type: ignore[method-assign]
    registry.register(gauge)
    assert (await scraped(server.address))["tasks"] == len(asyncio.all_tasks())


async def test_the_loop_passes_on_what_goes_wrong() -> None:
    loop = asyncio.get_running_loop()
    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(in_loop, loop, lambda: 1 // 0)


async def test_a_loop_that_is_busy_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "PATIENCE_S", 0.01)
    with pytest.raises(TimeoutError):
        in_loop(asyncio.get_running_loop(), lambda: 1)  # which is this thread's own
