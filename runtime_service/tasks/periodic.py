"""Work that is repeated while the service runs. What fails is repeated soon, and told, once for each cause."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from common.failure_log import FailureLog

RETRY_S = 1.0


class Periodic:
    """A task for each kind of work, until `stop`."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, seconds: float, act: Callable[[], Awaitable[object]]) -> None:
        """Do `act` every so many seconds, the first time after as many."""
        self.tasks.append(asyncio.create_task(_every(name, seconds, act), name=name))

    async def stop(self) -> None:
        """End all of it."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def _every(name: str, seconds: float, act: Callable[[], Awaitable[object]]) -> None:
    pause_s, failures = seconds, FailureLog("periodic.failed", task=name)
    while True:
        await asyncio.sleep(pause_s)
        with failures.attempt():
            await act()
        pause_s = min(RETRY_S, seconds) if failures.failing else seconds
