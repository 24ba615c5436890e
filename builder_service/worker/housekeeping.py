"""What a builder does now and then beside its builds: it deletes those that ended long ago."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from builder_service.queue.retention import BuildRetention

EVERY_S = 600.0
"""Seconds between two looks."""

log = structlog.get_logger()


class Housekeeping:
    """Life: `start`, then `stop`. `deleted` is told how many builds went, in the event loop."""

    def __init__(self, retention: BuildRetention, deleted: Callable[[int], None], every_s: float = EVERY_S) -> None:
        self._retention = retention
        self._deleted = deleted
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look at once, and again and again."""
        self._task = asyncio.create_task(self._run(), name="builder-housekeeping")

    async def stop(self) -> None:
        """End; a transaction that is on its way ends first, in its thread."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._delete_old()
            except Exception as error:
                log.exception("builds.not_deleted", exc_info=error)
            await asyncio.sleep(self._every_s)

    async def _delete_old(self) -> None:
        while count := await asyncio.to_thread(self._retention.delete_some):
            self._deleted(count)
            log.info("builds.deleted", count=count)
