"""Takes builds from the queue and runs each in a process of its own. One a builder."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from builder_service.build_run import POLL_S, BuildRun, Workshop
from builder_service.builds import Build
from builder_service.changes import ANY, wait_a_while
from builder_service.workers import is_alive
from common.errors import Aborted

log = structlog.get_logger()


class Worker:
    """At most `concurrency` builds at once. `start`, then `stop`."""

    def __init__(self, shop: Workshop, concurrency: int) -> None:
        self._shop = shop
        self._concurrency = concurrency
        self._running: dict[asyncio.Task[None], Build] = {}
        self._loop: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        """Clean up after workers that died, then take builds until `stop`."""
        await asyncio.to_thread(self._recover)
        self._loop = asyncio.create_task(self._work(), name="builder-worker")

    async def stop(self) -> None:
        """Take no more builds; kill those that run and put them back into the queue, their attempt not counted."""
        if self._loop is None:
            return
        self._stopping = True
        self._shop.changes.notify(ANY)
        await self._loop
        running = dict(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for build in running.values():
            with suppress(Aborted):  # it ended by itself
                await asyncio.to_thread(self._shop.queue.give_up, build)
        self._loop = None

    async def _work(self) -> None:
        with self._shop.changes.listen(ANY) as changed:
            while not self._stopping:
                changed.clear()
                try:
                    await self._take()
                except Exception as error:
                    log.exception("worker.failed", exc_info=error)
                    await asyncio.sleep(POLL_S)
                await wait_a_while(changed, POLL_S)

    async def _take(self) -> None:
        while len(self._running) < self._concurrency and not self._stopping:
            if (build := await asyncio.to_thread(self._shop.queue.take)) is None:
                return
            task = asyncio.create_task(BuildRun(self._shop, build).run(), name=build.name)
            self._running[task] = build
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        build = self._running.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("build.lost", build=build.name, exc_info=error)
        self._shop.changes.notify(build.build_id)

    def _recover(self) -> None:
        self._shop.work.mkdir(parents=True, exist_ok=True)
        for build in self._shop.queue.abandoned(is_alive):
            log.warning("build.abandoned", build=build.name, state=build.state, attempt=build.attempt)
        for build_id in self._shop.leftovers() - self._shop.queue.running_ids():
            self._shop.clean_up(build_id)
        self._shop.catalog.finish_deletions()
