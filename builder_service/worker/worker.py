"""The worker of a builder: leases builds from the queue and runs each in a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from builder_service.queue.builder_registry import RENEW_S
from builder_service.queue.changes import ANY, wait_for_change
from builder_service.worker.attempt import POLL_S, BuildAttempt
from builder_service.worker.context import WorkerContext
from common.errors import Aborted
from common.failure_log import FailureLog

RECOVER_S = 10.0
"""Seconds between two looks for builds whose workers were lost."""

log = structlog.get_logger()


class Worker:
    """Runs at most `concurrency` builds at once. Call `start`, then `stop`."""

    def __init__(
        self, context: WorkerContext, concurrency: int, reaches_queue: Callable[[bool], None] = lambda _: None
    ) -> None:
        """`reaches_queue` is told, again and again, whether builds can be taken."""
        self._reaches_queue = reaches_queue
        self._context = context
        self._concurrency = concurrency
        self._running: dict[asyncio.Task[None], BuildAttempt] = {}
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._stopping = False
        self._recovered = asyncio.get_running_loop().time()

    async def start(self) -> None:
        """Register, clean up after workers that were lost, then lease builds until `stop`."""
        await asyncio.to_thread(self._context.queue.renew_leases)
        await asyncio.to_thread(self._recover_lost)
        self._tasks = (
            asyncio.create_task(self._work(), name="builder-worker"),
            asyncio.create_task(self._renew_leases(), name="builder-heartbeat"),
        )

    async def stop(self, grace_s: float = 0.0) -> None:
        """Lease no more builds, and let running ones finish within `grace_s`; then kill and requeue them.

        Their attempts do not count.
        """
        if not self._tasks:
            return
        working, beating = self._tasks
        self._tasks = ()
        self._stopping = True
        self._context.changes.notify(ANY)
        await working
        if self._running:
            await asyncio.wait(self._running, timeout=grace_s)
        await self._give_up()
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        with suppress(Exception):  # its lease expires anyway
            await asyncio.to_thread(self._context.queue.unregister)

    @property
    def _runs(self) -> set[str]:
        """Names of the attempts that run here."""
        return {run.name for run in list(self._running.values())}

    async def _give_up(self) -> None:
        running = dict(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for run in running.values():
            with suppress(Aborted):  # it ended by itself
                await asyncio.to_thread(self._context.queue.requeue, run.build)

    async def _renew_leases(self) -> None:
        """Renew the leases of this worker, all the time."""
        failures = FailureLog("worker.heartbeat_failed")
        while True:
            await asyncio.sleep(RENEW_S)
            with failures.attempt():
                await asyncio.to_thread(self._context.queue.renew_leases, self._runs)

    async def _work(self) -> None:
        failures = FailureLog("worker.failed")
        with self._context.changes.listen(ANY) as changed:
            while not self._stopping:
                changed.clear()
                with failures.attempt():
                    await self._recover_lost_now_and_then()
                    await self._take()
                self._reaches_queue(not failures.failing)
                if failures.failing:
                    await asyncio.sleep(POLL_S)
                await wait_for_change(changed, POLL_S)

    async def _take(self) -> None:
        while len(self._running) < self._concurrency and not self._stopping:
            if (lease := await asyncio.to_thread(self._context.queue.lease_next)) is None:
                return
            run = BuildAttempt(self._context, lease)
            task = asyncio.create_task(run.run(), name=run.name)
            self._running[task] = run
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        run = self._running.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("build.lost", build=run.build.name, exc_info=error)
        self._context.changes.notify(run.build.build_id)

    async def _recover_lost_now_and_then(self) -> None:
        if (now := asyncio.get_running_loop().time()) - self._recovered > RECOVER_S:
            await asyncio.to_thread(self._recover_lost)
            self._recovered = now

    def _recover_lost(self) -> None:
        """Requeue the builds of workers that were lost, and clean up after attempts that have ended."""
        self._context.work.mkdir(parents=True, exist_ok=True)
        runs = self._runs
        for build in self._context.queue.requeue_lost(runs):
            log.warning("build.abandoned", build=build.name, state=build.state, attempt=build.attempt)
        leftovers = self._context.leftovers()  # before asking which runs go on: what begins between is not cleaned up
        for name in leftovers - self._context.queue.running_attempts() - runs:
            self._context.clean_up(name)
        self._context.catalog.finish_deletions()
