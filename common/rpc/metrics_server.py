"""Prometheus metrics over HTTP: a small server in threads of its own, and metrics that are read when it is asked.

Every service has a registry of its own: two in one process have an address each, and count for themselves.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeVar
from wsgiref.simple_server import WSGIServer

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics, start_http_server
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from common.errors import SinkServeError

PATIENCE_S = 5.0
"""How long a scrape waits for an event loop that is busy."""

T = TypeVar("T")

log = structlog.get_logger()


@dataclass(frozen=True)
class MetricsServer:
    """Serves a registry at http://ADDRESS/metrics. The address is empty if metrics are off."""

    address: str = ""
    http: WSGIServer | None = None

    def stop(self) -> None:
        """Stop listening; blocks for up to half a second, and may be called again."""
        if self.http is not None:
            self.http.shutdown()
            self.http.server_close()


async def serve_metrics(
    running: AsyncExitStack, listen: str, variable: str, registry: CollectorRegistry
) -> MetricsServer:
    """As `start_metrics`, until `running` is closed."""
    metrics = await asyncio.to_thread(start_metrics, listen, variable, registry)
    running.push_async_callback(asyncio.to_thread, metrics.stop)
    return metrics


def start_metrics(listen: str, variable: str, registry: CollectorRegistry) -> MetricsServer:
    """Serve `registry` on HOST:PORT (port 0: any free one, see `address`), or nowhere if `listen` is empty.

    Blocks while it looks up the host. Raises OSError naming `variable`, whose value `listen` is, for an address that
    cannot be had.
    """
    if not listen:
        return MetricsServer()
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each counter: when it was made
    host, _, port = listen.rpartition(":")
    try:
        server, _ = start_http_server(int(port), host.strip("[]"), registry)
    except OSError as error:
        cause = f"cannot serve metrics on {listen}: {error.strerror or error}"
        raise OSError(f"{variable}: {cause}; choose another address, or leave it empty to serve none") from None
    return MetricsServer(f"{host}:{server.server_port}", server)


def new_registry() -> CollectorRegistry:
    """A registry with what is known of every process: `process_*`."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


class Pulled(Collector, ABC):
    """Metrics that are read at each scrape. If reading fails, they are left out and the cause is logged."""

    @abstractmethod
    def families(self) -> tuple[Metric, ...]:
        """Every metric, without values."""

    @abstractmethod
    def read(self) -> Iterable[Metric]:
        """Every metric, with its values; called in a thread of the server."""

    def describe(self) -> Iterable[Metric]:
        """For the registry, which refuses a name that it has already."""
        return self.families()

    def collect(self) -> Iterator[Metric]:
        """For the registry, at each scrape."""
        try:
            yield from tuple(self.read())
        except SinkServeError as error:  # such as a database that is away
            log.warning("metrics.unreadable", cause=error.message)
        except Exception:
            log.exception("metrics.unreadable", metrics=[family.name for family in self.families()])


def in_loop(loop: asyncio.AbstractEventLoop, act: Callable[[], T]) -> T:
    """What `act` returns in the event loop, for another thread; raises TimeoutError if the loop is busy for long."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(act())
        except Exception as error:  # noqa: BLE001 - it is raised where it was asked for
            answer.set_exception(error)

    loop.call_soon_threadsafe(run)
    return answer.result(PATIENCE_S)
