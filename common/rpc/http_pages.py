"""What the metrics port answers: /metrics, /livez and /readyz, and 404 for any other path."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app

from common.panics import pass_on_ends
from common.rpc.health import HealthServicer

PATIENCE_S = 5.0
"""How long a request waits for an event loop that is busy."""

T = TypeVar("T")


class HttpPages:
    """A WSGI application over a registry and the health of a service that runs in `loop`; called in any thread."""

    def __init__(self, registry: CollectorRegistry, health: HealthServicer, loop: asyncio.AbstractEventLoop) -> None:
        self._metrics: WSGIApplication = make_wsgi_app(registry)
        self._health = health
        self._loop = loop

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        match environ.get("PATH_INFO", ""):
            case "/metrics":
                return self._metrics(environ, start_response)
            case "/livez":
                return _say(start_response, self._ask(lambda: True), "alive", "the event loop does not answer")
            case "/readyz":
                return _say(start_response, self._ask(lambda: self._health.ready), "ready", "not ready")
        return _answer(start_response, "404 Not Found", "there are /metrics, /livez and /readyz")

    def _ask(self, question: Callable[[], bool]) -> bool:
        """The answer of the event loop; false where it gives none."""
        try:
            return in_loop(self._loop, question)
        except (TimeoutError, RuntimeError):  # busy for long, or closed
            return False


def _say(start_response: StartResponse, holds: bool, yes: str, no: str) -> Iterable[bytes]:
    return _answer(start_response, "200 OK" if holds else "503 Service Unavailable", yes if holds else no)


def _answer(start_response: StartResponse, status: str, text: str) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")])
    return [f"{text}\n".encode()]


def in_loop(loop: asyncio.AbstractEventLoop, act: Callable[[], T]) -> T:
    """What `act` returns in the event loop, for another thread; raises TimeoutError if the loop is busy for long."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(act())
        except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
            pass_on_ends(error)
            answer.set_exception(error)

    loop.call_soon_threadsafe(run)
    return answer.result(PATIENCE_S)
