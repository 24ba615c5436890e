"""Work that is repeated while the service runs. What fails is repeated soon, and told, once for each cause."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from common.errors import SinkServeError
from common.panics import pass_on_ends

RETRY_S = 1.0

log = structlog.get_logger()


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
    pause_s, last = seconds, ""
    while True:
        await asyncio.sleep(pause_s)
        pause_s = min(RETRY_S, seconds)
        try:
            await act()
            pause_s, last = seconds, ""
        except SinkServeError as error:  # such as a database that is away
            if error.message != last:
                log.warning("periodic.failed", task=name, cause=error.message)
            last = error.message
        except BaseException as error:
            pass_on_ends(error)
            log.exception("periodic.failed", task=name)
