"""The thread that runs an engine: takes what is asked for between steps, sleeps when there is nothing to do."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

import structlog

from common.engine import Engine
from common.errors import Internal, Reason
from runtime_service.scheduler import Limits, Listener, RunEvent, Scheduler

T = TypeVar("T")
Act = Callable[[Scheduler], None]

log = structlog.get_logger()


class EngineThread:
    """Owns an engine and its scheduler. `post` from the event loop; listeners are called in the event loop."""

    def __init__(self, engine: Engine, limits: Limits, name: str) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._inbox: SimpleQueue[Act | None] = SimpleQueue()
        self._stopping = False
        self._outbox: list[tuple[Listener, RunEvent]] = []
        self.scheduler = Scheduler(engine, limits, time.monotonic, self._emit)
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}", daemon=True)
        self._thread.start()

    def post(self, act: Act) -> None:
        """Do `act` between two steps."""
        self._inbox.put(act)

    async def done(self, act: Act) -> None:
        """Do `act` between two steps, and return when it is done; nothing is done once it was told to stop."""
        if self._stopping:
            return
        happened = asyncio.Event()

        def tell(scheduler: Scheduler) -> None:
            try:
                act(scheduler)
            finally:
                self._loop.call_soon_threadsafe(happened.set)

        self.post(tell)
        await happened.wait()

    async def stop(self) -> None:
        """End the thread after the running step and free the engine; turns that run are forgotten."""
        self._stopping = True
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        try:
            worked = False
            while self._take(wait=not worked):
                worked = bool(self._guarded(Scheduler.step))
                self._deliver()
        finally:
            self._engine.close()

    def _take(self, *, wait: bool) -> bool:
        """Do all that was asked for; False: it was asked to stop."""
        while wait or not self._inbox.empty():
            act = self._inbox.get()
            if act is None:
                return False
            self._guarded(act)
            wait = False
        return True

    def _guarded(self, act: Callable[[Scheduler], T]) -> T | None:
        """A bug of ours ends the turns of this engine, not its thread."""
        try:
            return act(self.scheduler)
        except Exception:
            log.exception("scheduler.failed")
            self.scheduler.fail_all(Internal(Reason.INTERNAL, "the server failed; its log has the details"))
            return None

    def _emit(self, listener: Listener, event: RunEvent) -> None:
        self._outbox.append((listener, event))

    def _deliver(self) -> None:
        if not self._outbox:
            return
        batch, self._outbox = self._outbox, []
        try:
            self._loop.call_soon_threadsafe(_tell, batch)
        except RuntimeError:  # the loop is closed: nobody is left to hear
            log.warning("events.undelivered", count=len(batch))


def _tell(batch: list[tuple[Listener, RunEvent]]) -> None:
    for listener, event in batch:
        listener(event)
