"""Metrics and health over HTTP: a small server in threads of its own, and metrics that are read when it is asked.

Every service has a registry of its own: two in one process have an address each, and count for themselves.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import WSGIApplication

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from common.errors import SinkServeError
from common.panics import pass_on_ends
from common.rpc.health import HealthServicer
from common.rpc.http_pages import HttpPages
from common.rpc.tls import Tls

PATIENCE_S = 10.0

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
    running: AsyncExitStack,
    listen: str,
    variable: str,
    registry: CollectorRegistry,
    health: HealthServicer,
    *,
    tls: Tls | None = None,
) -> MetricsServer:
    """As `start_metrics`, with the pages of a service in this event loop, until `running` is closed."""
    pages = HttpPages(registry, health, asyncio.get_running_loop())
    metrics = await asyncio.to_thread(start_metrics, listen, variable, pages, tls)
    running.push_async_callback(asyncio.to_thread, metrics.stop)
    return metrics


def start_metrics(listen: str, variable: str, pages: WSGIApplication, tls: Tls | None = None) -> MetricsServer:
    """Serve `pages` on HOST:PORT (port 0: any free one, see `address`), or nowhere if `listen` is empty.

    Blocks while it looks up the host. Raises OSError naming `variable`, whose value `listen` is, for an address that
    cannot be had.
    """
    if not listen:
        return MetricsServer()
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each counter: when it was made
    host, _, port = listen.rpartition(":")
    try:
        server = _Server(host.strip("[]"), int(port), tls)
    except OSError as error:
        cause = f"cannot serve metrics on {listen}: {error.strerror or error}"
        raise OSError(f"{variable}: {cause}; choose another address, or `none` to serve none") from None
    server.set_app(pages)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return MetricsServer(f"{host}:{server.server_port}", server)


class _Server(ThreadingMixIn, WSGIServer):
    """A thread a request, in the family of addresses that the host has."""

    daemon_threads = True

    def __init__(self, host: str, port: int, tls: Tls | None) -> None:
        self._tls = tls
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family = found[0][0]
        super().__init__((str(found[0][4][0]), port), _Quiet)

    def get_request(self) -> tuple[socket.socket, Any]:
        """A connection; TLS says hello in its own thread, when that reads."""
        connection, address = super().get_request()
        if self._tls is not None:
            context = self._tls.http_context()
            connection = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - the base's
        """A client that went away, or does not speak TLS: nothing to say."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Quiet(WSGIRequestHandler):
    timeout = PATIENCE_S  # of a client that says nothing

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the standard library
        """Requests are not logged."""


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
        except BaseException as error:
            pass_on_ends(error)
            log.exception("metrics.unreadable", metrics=[family.name for family in self.families()])
