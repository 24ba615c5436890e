"""Takes builds from the queue and runs each in a process of its own. One a builder."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from builder_service.build_run import POLL_S, BuildRun, Workshop
from builder_service.builds import Build
from builder_service.changes import ANY, wait_a_while
from common.errors import Aborted

LOOK_AROUND_S = 10.0
"""How often a worker looks for processes that died."""

log = structlog.get_logger()


class Worker:
    """At most `concurrency` builds at once. `start`, then `stop`."""

    def __init__(self, shop: Workshop, concurrency: int) -> None:
        self._shop = shop
        self._concurrency = concurrency
        self._running: dict[asyncio.Task[None], Build] = {}
        self._loop: asyncio.Task[None] | None = None
        self._stopping = False
        self._looked_around = asyncio.get_running_loop().time()

    async def start(self) -> None:
        """Clean up after processes that died, then take builds until `stop`."""
        await asyncio.to_thread(self._look_around, set())
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
                    await self._look_around_now_and_then()
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

    async def _look_around_now_and_then(self) -> None:
        if (now := asyncio.get_running_loop().time()) - self._looked_around > LOOK_AROUND_S:
            mine = {build.build_id for build in self._running.values()}
            await asyncio.to_thread(self._look_around, mine)
            self._looked_around = now

    def _look_around(self, mine: set[str]) -> None:
        """Take over from processes that died: their builds, and what those left behind; `mine` run here."""
        self._shop.work.mkdir(parents=True, exist_ok=True)
        for build in self._shop.queue.abandoned():
            log.warning("build.abandoned", build=build.name, state=build.state, attempt=build.attempt)
        for build_id in self._shop.leftovers() - self._shop.queue.running_ids() - mine:
            self._shop.clean_up(build_id)
        self._shop.catalog.finish_deletions()
