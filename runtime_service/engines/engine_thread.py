"""The thread that runs an engine: takes what is asked for between steps, sleeps when there is nothing to do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import TypeVar

import structlog

from common.errors import Internal, Reason
from common.panics import pass_on_ends
from runtime_service.decoding.delta import Delta, coalesce
from runtime_service.scheduling.scheduler_events import Emit, Listener, SchedulerEvent
from runtime_service.scheduling.turn_scheduler import TurnScheduler

T = TypeVar("T")
Act = Callable[[TurnScheduler], None]
MakeScheduler = Callable[[Emit, Callable[[], None]], TurnScheduler]  # its second argument wakes the thread

log = structlog.get_logger()


class EngineThread:
    """Owns a scheduler and its engine. `post` from the event loop; listeners are called in the event loop."""

    def __init__(self, make_scheduler: MakeScheduler, close: Callable[[], None], name: str) -> None:
        """`close` frees the engine; it is called in the thread, when nothing else of it will be."""
        self._close = close
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._requests: SimpleQueue[Act | None] = SimpleQueue()
        self._stopping = False
        self._emitted: list[tuple[Listener, SchedulerEvent]] = []
        self._undelivered: list[tuple[Listener, SchedulerEvent]] = []
        self._delivering = False
        self._lock = threading.Lock()
        self.scheduler = make_scheduler(self._emit, self._wake)
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}", daemon=True)
        self._thread.start()

    def post(self, act: Act) -> None:
        """Do `act` between two steps."""
        self._requests.put(act)

    async def post_and_wait(self, act: Act) -> None:
        """Do `act` between two steps, and return when it is done; nothing is done once it was told to stop."""
        if self._stopping:
            return
        happened = asyncio.Event()

        def tell(scheduler: TurnScheduler) -> None:
            try:
                act(scheduler)
            finally:
                self._loop.call_soon_threadsafe(happened.set)

        self.post(tell)
        await happened.wait()

    async def stop_engine(self) -> None:
        """End the thread after the running step and free the engine; turns that run are forgotten."""
        self._stopping = True
        self._requests.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        try:
            worked = False
            while self._take(wait=not worked):
                worked = bool(self._guarded(lambda scheduler: scheduler.step()))
                self._deliver()
        finally:
            self._close()

    def _take(self, *, wait: bool) -> bool:
        """Do all that was asked for; False: it was asked to stop."""
        while wait or not self._requests.empty():
            try:
                act = self._requests.get(timeout=self.scheduler.due_s if wait else None)
            except Empty:
                return True
            if act is None:
                return False
            self._guarded(act)
            wait = False
        return True

    def _guarded(self, act: Callable[[TurnScheduler], T]) -> T | None:
        """A bug of ours ends the turns of this engine, not its thread."""
        try:
            return act(self.scheduler)
        except BaseException as error:
            pass_on_ends(error)
            log.exception("scheduler.failed", engine=self._name)
            self.scheduler.fail_all_turns(Internal(Reason.INTERNAL, "the server failed; its log has the details"))
            return None

    def _wake(self) -> None:
        """Make the thread do a step; from any thread."""
        self._requests.put(lambda _scheduler: None)

    def _emit(self, listener: Listener, event: SchedulerEvent) -> None:
        self._emitted.append((listener, event))

    def _deliver(self) -> None:
        """Hand over what the steps emitted; once, until the event loop has taken it."""
        if not self._emitted:
            return
        with self._lock:
            self._undelivered += self._emitted
            under_way, self._delivering = self._delivering, True
        self._emitted = []
        if not under_way:
            try:
                self._loop.call_soon_threadsafe(self._tell)
            except RuntimeError:  # the loop is closed: nobody is left to hear
                log.warning("events.undelivered", count=len(self._undelivered))

    def _tell(self) -> None:
        """In the event loop: everything that was emitted since it came here last."""
        with self._lock:
            batch, self._undelivered, self._delivering = self._undelivered, [], False
        for listener, event in by_listener(batch):
            listener(event)


def by_listener(batch: Sequence[tuple[Listener, SchedulerEvent]]) -> Iterator[tuple[Listener, SchedulerEvent]]:
    """Events by listener, each listener's in order, with fewer deltas: a loop that has fallen behind catches up."""
    events: dict[Listener, list[SchedulerEvent]] = {}
    for listener, event in batch:
        events.setdefault(listener, []).append(event)
    for listener, own in events.items():
        for event in coalesce(own, _delta_of, _with_delta):
            yield listener, event


def _delta_of(event: SchedulerEvent) -> Delta | None:
    return event if isinstance(event, Delta) else None


def _with_delta(_event: SchedulerEvent, delta: Delta) -> Delta:
    return delta
