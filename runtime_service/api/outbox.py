"""What waits to be sent on one stream, and whether its client reads."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from itertools import groupby
from operator import attrgetter

from common.errors import SinkServeError
from runtime_service.decoding.delta import Delta, coalesce
from runtime_service.turns.events import Event


class Outbox:
    """`put` never waits; `take` waits for something to send. `on_full` is told when as many wait as may, or no more."""

    def __init__(self, most: int, on_full: Callable[[bool], None]) -> None:
        self._most = most
        self._on_full = on_full
        self._events: deque[Event] = deque()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False
        self._error: SinkServeError | None = None

    @property
    def closed(self) -> bool:
        """Nothing more is taken in."""
        return self._closed

    @property
    def waiting(self) -> int:
        """How many events wait."""
        return len(self._events)

    def put(self, *events: Event) -> None:
        """Send `events` after what waits; dropped when closed."""
        if self._closed or not events:
            return
        self._events.extend(events)
        self._changed.set()
        self._note_full(full=len(self._events) >= self._most)

    def close(self, error: SinkServeError | None = None) -> None:
        """End the stream after what waits, with `error` if it is one. The first close counts."""
        if not self._closed:
            self._closed, self._error = True, error
            self._changed.set()
            self._room.set()

    async def room(self) -> None:
        """Wait until another may be put, or it is closed: a client that asks and does not read is not listened to."""
        await self._room.wait()

    async def take(self, patience_s: float) -> list[Event] | None:
        """Everything that waits, pieces of a reply joined; empty: nothing came in `patience_s`; None: the end.

        Raises the error that the stream ends with.
        """
        if not await self._something(patience_s):
            return []
        events = merged(self._events)
        self._events.clear()
        self._changed.clear()
        self._note_full(full=False)
        if events:
            if self._closed:
                self._changed.set()
            return events
        if self._error is not None:
            raise self._error
        return None

    async def _something(self, patience_s: float) -> bool:
        if self._changed.is_set():
            return True
        try:
            async with asyncio.timeout(patience_s):  # `wait_for` may swallow a cancel, and so a lost client
                await self._changed.wait()
        except TimeoutError:
            return self._changed.is_set()  # something may come between the time being up and our turn
        return True

    def _note_full(self, *, full: bool) -> None:
        if full == self._room.is_set() and not self._closed:
            if full:
                self._room.clear()
            else:
                self._room.set()
            self._on_full(full)


def merged(events: Iterable[Event]) -> list[Event]:
    """Events with fewer deltas, as `coalesce` joins them: a joined one has the sequence of its last piece."""
    by_turn = groupby(events, attrgetter("turn_id"))
    return [event for _, of_turn in by_turn for event in coalesce(of_turn, _delta_of, _with_delta)]


def _delta_of(event: Event) -> Delta | None:
    return event.body if isinstance(event.body, Delta) else None


def _with_delta(event: Event, delta: Delta) -> Event:
    return Event(event.sequence, delta, event.turn_id)
