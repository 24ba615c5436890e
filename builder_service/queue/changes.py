"""Notifies those who wait for a change of a build, within one process. Says that a build changed, not how."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

ANY = ""
"""The key to wait for a change of any build."""


class Changes:
    """Create it in the event loop of those who wait. `notify` may be called from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    def notify(self, key: str) -> None:
        """Wake everybody who waits for `key`, or for any."""
        with suppress(RuntimeError):  # the loop has ended, and with it everybody who waits
            self._loop.call_soon_threadsafe(self._wake, key)

    @contextmanager
    def listen(self, key: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever `key` changes; clear it before you look at the build."""
        event = asyncio.Event()
        self._waiting[key].add(event)
        try:
            yield event
        finally:
            self._waiting[key].discard(event)
            if not self._waiting[key]:
                del self._waiting[key]

    @property
    def waiting(self) -> int:
        """How many listeners there are."""
        return sum(map(len, self._waiting.values()))

    def _wake(self, key: str) -> None:
        for event in (*self._waiting.get(key, ()), *self._waiting.get(ANY, ())):
            event.set()


async def wait_for_change(event: asyncio.Event, seconds: float) -> None:
    """Wait until `event` is set, or for `seconds`: a change by another process does not set it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
