"""Takes builds from the queue and runs each in a process of its own. One a builder."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from builder_service.queue.builder_registry import RENEW_S
from builder_service.queue.changes import ANY, wait_a_while
from builder_service.worker.attempt import POLL_S, BuildAttempt, Workshop
from common.errors import Aborted

LOOK_AROUND_S = 10.0
"""How often a worker looks for builds whose workers were lost."""

log = structlog.get_logger()


class Worker:
    """At most `concurrency` builds at once. `start`, then `stop`."""

    def __init__(self, shop: Workshop, concurrency: int) -> None:
        self._shop = shop
        self._concurrency = concurrency
        self._running: dict[asyncio.Task[None], BuildAttempt] = {}
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._stopping = False
        self._looked_around = asyncio.get_running_loop().time()

    async def start(self) -> None:
        """Say that it is alive, clean up after workers that were lost, then take builds until `stop`."""
        await asyncio.to_thread(self._shop.queue.renew)
        await asyncio.to_thread(self._look_around)
        self._tasks = (
            asyncio.create_task(self._work(), name="builder-worker"),
            asyncio.create_task(self._beat(), name="builder-heartbeat"),
        )

    async def stop(self, grace_s: float = 0.0) -> None:
        """Take no more builds and give those that run `grace_s`; then kill them and put them back into the queue.

        Their attempts do not count.
        """
        if not self._tasks:
            return
        working, beating = self._tasks
        self._tasks = ()
        self._stopping = True
        self._shop.changes.notify(ANY)
        await working
        if self._running:
            await asyncio.wait(self._running, timeout=grace_s)
        await self._give_up()
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        with suppress(Exception):  # it is forgotten when its lease has passed
            await asyncio.to_thread(self._shop.queue.leave)

    @property
    def _runs(self) -> set[str]:
        """Names of the attempts that go on here."""
        return {run.name for run in list(self._running.values())}

    async def _give_up(self) -> None:
        running = dict(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for run in running.values():
            with suppress(Aborted):  # it ended by itself
                await asyncio.to_thread(self._shop.queue.give_up, run.build)

    async def _beat(self) -> None:
        """Renew what this worker runs, whatever else it does."""
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await asyncio.to_thread(self._shop.queue.renew, self._runs)
            except Exception as error:
                log.exception("worker.heartbeat_failed", exc_info=error)

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
            if (lease := await asyncio.to_thread(self._shop.queue.take)) is None:
                return
            run = BuildAttempt(self._shop, lease)
            task = asyncio.create_task(run.run(), name=run.name)
            self._running[task] = run
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        run = self._running.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("build.lost", build=run.build.name, exc_info=error)
        self._shop.changes.notify(run.build.build_id)

    async def _look_around_now_and_then(self) -> None:
        if (now := asyncio.get_running_loop().time()) - self._looked_around > LOOK_AROUND_S:
            await asyncio.to_thread(self._look_around)
            self._looked_around = now

    def _look_around(self) -> None:
        """Take over from workers that were lost: their builds, and what attempts that are over left behind."""
        self._shop.work.mkdir(parents=True, exist_ok=True)
        runs = self._runs
        for build in self._shop.queue.abandoned(runs):
            log.warning("build.abandoned", build=build.name, state=build.state, attempt=build.attempt)
        leftovers = self._shop.leftovers()  # before asking which runs go on: what begins between is not cleaned up
        for name in leftovers - self._shop.queue.runs() - runs:
            self._shop.clean_up(name)
        self._shop.catalog.finish_deletions()
