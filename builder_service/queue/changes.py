"""Word from whoever changes a build to whoever waits for it, within one process. Says that, not what."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

ANY = ""
"""Key of those who wait for a change of whatever build."""


class Changes:
    """Made in the event loop that its waiters run in. `notify` may be called from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    def notify(self, key: str) -> None:
        """Wake everybody who waits for `key`, or for any."""
        with suppress(RuntimeError):  # the loop has ended, and with it everybody who waits
            self._loop.call_soon_threadsafe(self._wake, key)

    @contextmanager
    def listen(self, key: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever `key` changes; whoever waits clears it before looking."""
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
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    def _wake(self, key: str) -> None:
        for event in (*self._waiting.get(key, ()), *self._waiting.get(ANY, ())):
            event.set()


async def wait_a_while(event: asyncio.Event, seconds: float) -> None:
    """Wait until `event` is set, but not for ever: another process may have made the change."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
