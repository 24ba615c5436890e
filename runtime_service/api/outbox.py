"""What waits to be sent on one stream, and how much of it its client has taken."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from itertools import groupby
from operator import attrgetter

from common.errors import SinkServeError
from runtime_service.decoding.delta import Delta, coalesce
from runtime_service.turns.events import Event

MOST_BYTES = 1 << 20
"""Bytes of events that may wait, about: with log-probabilities few of them are many bytes."""


class Outbox:
    """`put` never waits; `take` waits for something to send. `on_full` is told when as many wait as may, or no more.

    `taken` of the events that were `put` have been sent: what is being sent counts when the next is asked for.
    """

    def __init__(self, most: int, on_full: Callable[[bool], None]) -> None:
        self._most = most
        self._on_full = on_full
        self._events: deque[Event] = deque()
        self._size_bytes = 0
        self._sending = 0
        self.taken = 0
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

    @property
    def given(self) -> int:
        """How many events were put in so far."""
        return self.taken + self._sending + len(self._events)

    @property
    def is_full(self) -> bool:
        """Whether as many wait as may."""
        return len(self._events) >= self._most or self._size_bytes >= MOST_BYTES

    def put(self, *events: Event) -> None:
        """Send `events` after what waits; dropped when closed."""
        if self._closed or not events:
            return
        self._events.extend(events)
        self._size_bytes += sum(event.size_bytes for event in events)
        self._changed.set()
        self._note_full()

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
        """What waits, at most as many as may, pieces of a reply joined; empty: nothing came in `patience_s`; None: the
        end.

        Call it when what it gave before was sent. Raises the error that the stream ends with.
        """
        self.taken, self._sending = self.taken + self._sending, 0
        if not await self._something(patience_s):
            return []
        if events := self._next():
            return merged(events)
        if self._error is not None:
            raise self._error
        return None

    def _next(self) -> list[Event]:
        events = [self._events.popleft() for _ in range(min(self._most, len(self._events)))]
        self._sending = len(events)
        self._size_bytes -= sum(event.size_bytes for event in events)
        if not self._events and not (events and self._closed):
            self._changed.clear()
        self._note_full()
        return events

    async def _something(self, patience_s: float) -> bool:
        if self._changed.is_set():
            return True
        try:
            async with asyncio.timeout(patience_s):  # `wait_for` may swallow a cancel, and so a lost client
                await self._changed.wait()
        except TimeoutError:
            return self._changed.is_set()  # something may come between the time being up and our turn
        return True

    def _note_full(self) -> None:
        full = self.is_full
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
