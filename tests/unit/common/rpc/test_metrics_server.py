"""Metrics over HTTP: served, turned off, refused; and what is read at each scrape."""

from __future__ import annotations

import asyncio
import socket
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from structlog.testing import capture_logs

from common.rpc import http_pages
from common.rpc.health import HealthServicer
from common.rpc.http_pages import HttpPages, in_loop
from common.rpc.metrics_server import MetricsServer, Pulled, new_registry, start_metrics
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


def pages(registry: CollectorRegistry) -> HttpPages:
    """Of a service whose event loop has ended."""
    loop = asyncio.new_event_loop()
    loop.close()
    return HttpPages(registry, HealthServicer(), loop)


@pytest.fixture
def server(registry: CollectorRegistry) -> Iterator[MetricsServer]:
    server = start_metrics("127.0.0.1:0", VARIABLE, pages(registry))
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
    server = start_metrics("", VARIABLE, pages(registry))
    assert server == MetricsServer("", None)
    server.stop()


@pytest.mark.parametrize("taken", [True, False])
def test_an_address_that_cannot_be_had_names_the_variable(taken: bool, registry: CollectorRegistry) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        listen = f"127.0.0.1:{busy.getsockname()[1]}" if taken else "192.0.2.1:0"
        with pytest.raises(OSError, match=f"^{VARIABLE}: cannot serve metrics on {listen}: .*; choose another"):
            start_metrics(listen, VARIABLE, pages(registry))


def test_a_registry_knows_its_process() -> None:
    server = start_metrics("127.0.0.1:0", VARIABLE, pages(new_registry()))
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
    monkeypatch.setattr(http_pages, "PATIENCE_S", 0.01)
    with pytest.raises(TimeoutError):
        in_loop(asyncio.get_running_loop(), lambda: 1)  # which is this thread's own


async def test_pages_of_health_mean_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    health, loop = HealthServicer(), asyncio.get_running_loop()
    server = start_metrics("127.0.0.1:0", VARIABLE, HttpPages(CollectorRegistry(), health, loop))

    async def statuses() -> list[int]:
        paths = ("livez", "readyz", "metrics", "", "healthz")
        return await asyncio.gather(*(asyncio.to_thread(status_of, server.address, path) for path in paths))

    assert await statuses() == [200, 503, 200, 404, 404]
    health.set_ready(True)
    assert await statuses() == [200, 200, 200, 404, 404]
    monkeypatch.setattr(http_pages, "PATIENCE_S", 0.05)
    with ThreadPoolExecutor(1) as other:
        asked = other.submit(status_of, server.address, "livez")
        assert asked.result() == 503, "this thread is the event loop's, and waits"
    await asyncio.to_thread(server.stop)


def status_of(address: str, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://{address}/{path}") as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
