"""The thread that runs an engine: takes what is asked for between steps, sleeps when there is nothing to do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import TypeVar

import structlog

from common.errors import Internal, Reason
from runtime_service.decoding.reply import MOST_JOINED, Delta, join
from runtime_service.scheduling.turn_scheduler import Emit, Listener, RunEvent, TurnScheduler, Wrote

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
        self._inbox: SimpleQueue[Act | None] = SimpleQueue()
        self._stopping = False
        self._outbox: list[tuple[Listener, RunEvent]] = []
        self._untold: list[tuple[Listener, RunEvent]] = []
        self._asked = False
        self._lock = threading.Lock()
        self.scheduler = make_scheduler(self._emit, self._wake)
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

        def tell(scheduler: TurnScheduler) -> None:
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
                worked = bool(self._guarded(lambda scheduler: scheduler.step()))
                self._deliver()
        finally:
            self._close()

    def _take(self, *, wait: bool) -> bool:
        """Do all that was asked for; False: it was asked to stop."""
        while wait or not self._inbox.empty():
            act = self._inbox.get()
            if act is None:
                return False
            self._guarded(act)
            wait = False
        return True

    def _guarded(self, act: Callable[[TurnScheduler], T]) -> T | None:
        """A bug of ours ends the turns of this engine, not its thread."""
        try:
            return act(self.scheduler)
        except Exception:
            log.exception("scheduler.failed", engine=self._name)
            self.scheduler.fail_all(Internal(Reason.INTERNAL, "the server failed; its log has the details"))
            return None

    def _wake(self) -> None:
        """Make the thread do a step; from any thread."""
        self._inbox.put(lambda _scheduler: None)

    def _emit(self, listener: Listener, event: RunEvent) -> None:
        self._outbox.append((listener, event))

    def _deliver(self) -> None:
        """Hand over what the steps emitted; once, until the event loop has taken it."""
        if not self._outbox:
            return
        with self._lock:
            self._untold += self._outbox
            told, self._asked = self._asked, True
        self._outbox = []
        if not told:
            try:
                self._loop.call_soon_threadsafe(self._tell)
            except RuntimeError:  # the loop is closed: nobody is left to hear
                log.warning("events.undelivered", count=len(self._untold))

    def _tell(self) -> None:
        """In the event loop: everything that was emitted since it came here last."""
        with self._lock:
            batch, self._untold, self._asked = self._untold, [], False
        for listener, event in joined(batch):
            listener(event)


def joined(batch: Sequence[tuple[Listener, RunEvent]]) -> Iterator[tuple[Listener, RunEvent]]:
    """Events by listener, each listener's in order; pieces of one reply that follow one another are one.

    A loop that has fallen behind has less to do for each token, and catches up.
    """
    by_listener: dict[Listener, list[RunEvent]] = {}
    for listener, event in batch:
        by_listener.setdefault(listener, []).append(event)
    for listener, events in by_listener.items():
        pieces: list[Delta] = []
        for event in events:
            if isinstance(event, Wrote) and len(pieces) < MOST_JOINED:
                pieces.append(event.delta)
                continue
            if pieces:
                yield listener, Wrote(join(pieces))
            pieces = [event.delta] if isinstance(event, Wrote) else []
            if not pieces:
                yield listener, event
        if pieces:
            yield listener, Wrote(join(pieces))
