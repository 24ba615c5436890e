"""One attempt at one build: start the child process, send it its order, answer it, and always clean up afterwards."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from contextlib import aclosing, suppress
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import structlog

from builder_service.machine.memory import out_of_memory_kills
from builder_service.pipeline.messages import Answer, AskKey, AskStore, Built, Failed, FromChild, Log, Order, Progress
from builder_service.queue.build import Build
from builder_service.queue.builder_registry import LEASE
from builder_service.queue.changes import wait_for_change
from builder_service.queue.failure import Failure
from builder_service.queue.queue import Lease
from builder_service.worker.child_process import ChildProcess, start_child
from builder_service.worker.context import HOLDER, WorkerContext
from builder_service.worker.crash_report import crash_error
from builder_service.worker.trace import AttemptTrace
from common.catalog.blob_claims import claim_blobs
from common.errors import Aborted, DataLoss, DeadlineExceeded, Internal, Reason, SinkServeError, Unavailable
from common.panics import pass_on_ends
from common.retry import retry, within
from common.spec.manifest import Manifest
from common.spec.published_engine import PublishedEngine

MOST_LOG_LINES = 2000
POLL_S, LAST_WORDS_S = 1.0, 5.0
"""Between two looks; and how long a child may take to end once it has said how."""

log = structlog.get_logger()
T = TypeVar("T")
P = ParamSpec("P")


class WaitsForKey(Exception):
    """Another build of the same key runs; this one has to wait for its end."""

    def __init__(self, build_key: str) -> None:
        super().__init__(build_key)
        self.build_key = build_key


class BuildAttempt:
    """One attempt at a build; if that is cancelled and others wait for its key, the attempt goes on for the next."""

    def __init__(self, context: WorkerContext, lease: Lease) -> None:
        self._context = context
        self._lease = lease
        self._build = lease.build
        self._lines = 0
        self._trace = AttemptTrace(context.traces)

    @property
    def build(self) -> Build:
        """The build that it works for now."""
        return self._build

    @property
    def name(self) -> str:
        """The attempt's name, of its folder and its claims too."""
        return self._lease.run

    async def run(self) -> None:
        """Run the build, and store in the queue how it ended.

        If this is cancelled the child is killed and the queue keeps the build as running.
        """
        log.info("build.started", build=self._build.name, attempt=self._build.attempt)
        try:
            await self._cleanly_attempt()
        except WaitsForKey as waits:
            log.info("build.waits", build=self._build.name, key=waits.build_key)
            await self._unless_ended(self._context.queue.wait_for_key, waits.build_key)
        except SinkServeError as error:
            await self._fail(error)
        except BaseException as error:
            pass_on_ends(error)
            log.exception("build.lost", build=self._build.name, exc_info=error)
            await self._fail(Internal(Reason.INTERNAL, "the builder failed; its log has the details"))

    async def _cleanly_attempt(self) -> None:
        """Clean up before the build's end is stored: the next worker then starts clean as well."""
        try:
            await self._attempt()
        finally:
            await asyncio.to_thread(self._context.clean_up, self.name)

    async def _attempt(self) -> None:
        folder = self._context.work / self.name
        folder.mkdir(parents=True, exist_ok=True)
        kills = out_of_memory_kills()
        child = await start_child()
        try:
            await child.send(self._order(folder))
            outcome = await self._in_time(child)
        finally:
            status = await child.kill()
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        if outcome is None:
            raise crash_error(status, child, ran_out=out_of_memory_kills() > kills)
        await self._end(outcome)

    def _order(self, folder: Path) -> Order:
        context = self._context
        return Order(
            spec=self._build.spec,
            work=folder,
            source_roots=context.source_roots,
            remote=context.remote,
            store_url=context.store_url,
            store_timeout_s=context.store_timeout_s,
            memory_limit_mib=context.memory_limit_mib,
        )

    async def _in_time(self, child: ChildProcess) -> Built | Failed | None:
        """Handle the child's messages; raises DeadlineExceeded (BUILD_TIMED_OUT) if it takes too long."""
        patience = asyncio.timeout(self._context.timeout_s)
        try:
            async with patience:
                return await self._while_running(child)
        except TimeoutError:
            if not patience.expired():
                raise
            stage, limit_s = child.stage or "its start", self._context.timeout_s
            message = f"the build took longer than {limit_s:g} s, and was in {stage}; the builder allows no more"
            raise DeadlineExceeded(Reason.BUILD_TIMED_OUT, message, stage=stage, limit_s=limit_s) from None

    async def _while_running(self, child: ChildProcess) -> Built | Failed | None:
        """Handle the child's messages while the build is RUNNING; raises Aborted when it no longer is."""
        listening = asyncio.create_task(self._listen(child))
        ended = asyncio.create_task(self._until_ended())
        try:
            await asyncio.wait((listening, ended), return_when=asyncio.FIRST_COMPLETED)
            if listening.done():
                return listening.result()
            raise Aborted(Reason.BUILD_ENDED, f"{self._build.name} ended from outside")
        finally:
            for task in (listening, ended):
                task.cancel()
            await asyncio.gather(listening, ended, return_exceptions=True)

    async def _until_ended(self) -> None:
        while True:
            with self._context.changes.listen(self._build.build_id) as changed:
                if not await self._goes_on():
                    return
                await wait_for_change(changed, POLL_S)

    async def _goes_on(self) -> bool:
        """Whether the attempt still works for a build that runs."""
        current = await _patiently(self._context.queue.current_build, self._lease)
        if current is None:
            return False
        if current.build_id != self._build.build_id:
            log.info("build.continued", build=current.name, cancelled=self._build.name)
            cancelled, self._build = self._build, current
            await self._log(f"goes on with what {cancelled.name}, which was cancelled, had done")
        return True

    async def _tell(self, change: Callable[Concatenate[Build, P], T], *args: P.args, **named: P.kwargs) -> T:
        """Change the build in the queue, or the one that took over this attempt; raises Aborted if there is none."""
        try:
            return await _patiently(change, self._build, *args, **named)
        except Aborted:
            told = self._build
            if not await self._goes_on() or self._build == told:
                raise
            return await _patiently(change, self._build, *args, **named)

    async def _listen(self, child: ChildProcess) -> Built | Failed | None:
        """Store and answer the child's messages until it ends; returns its last message, None if it sent none."""
        outcome: Built | Failed | None = None
        with suppress(TimeoutError):
            async with aclosing(child.messages()) as messages, asyncio.timeout(None) as patience:
                async for message in messages:
                    if isinstance(message, Built | Failed):
                        outcome = message
                        patience.reschedule(asyncio.get_running_loop().time() + LAST_WORDS_S)
                    elif isinstance(message, AskKey):
                        if made := await self._made_before(message.build_key):
                            return Built(manifest=made)
                        await child.send(Answer(go_on=True))
                    else:
                        await self._keep(message, child)
                await child.wait(LAST_WORDS_S)
        return outcome

    async def _keep(self, message: FromChild, child: ChildProcess) -> None:
        if isinstance(message, Progress):
            self._trace.stage(message.stage)
            await self._tell(self._context.queue.advance, message.report)
        elif isinstance(message, AskStore):
            await asyncio.to_thread(claim_blobs, self._context.database, message.digests, HOLDER + self.name)
            await child.send(Answer(go_on=True))
        elif isinstance(message, Log):
            await self._log(message.text)

    async def _log(self, text: str) -> None:
        self._lines += 1
        if self._lines == MOST_LOG_LINES:
            text = f"this was the line {MOST_LOG_LINES}; no more are kept"
        if self._lines <= MOST_LOG_LINES:
            await self._tell(self._context.queue.log, text)

    async def _made_before(self, build_key: str) -> Manifest | None:
        """The manifest of this build if its engine exists under another name or version.

        Raises WaitsForKey if another build of the key runs.
        """
        if owner := await self._tell(self._context.queue.claim_key, build_key):
            await self._log(f"waits for builds/{owner}, which builds the same")
            raise WaitsForKey(build_key)
        return await asyncio.to_thread(self._find_made, build_key)

    def _find_made(self, build_key: str) -> Manifest | None:
        context, owner, holder = self._context, self._build.principal, HOLDER + self.name
        for engine in context.catalog.with_build_key(build_key):
            claim_blobs(context.database, digests := [file.digest for file in engine.manifest.files], holder)
            try:
                for digest in digests:
                    context.store.verify(digest)
            except DataLoss as error:
                context.queue.log(self._build, f"{engine.shown_to(owner)} is the same, but {error.message}")
            else:
                context.queue.log(self._build, f"{engine.shown_to(owner)} is the same; its files are used")
                return engine.manifest
        return None

    async def _end(self, outcome: Built | Failed) -> None:
        if isinstance(outcome, Failed):
            raise outcome.failure.error()
        engine = await self._tell(self._publish, outcome.manifest)
        log.info("build.succeeded", build=self._build.name, engine=engine.reference)
        self._trace.end(self._build)

    def _publish(self, build: Build, manifest: Manifest) -> PublishedEngine:
        """Publish the manifest as this build's engine."""
        if manifest.version or build.build_id != self._lease.build.build_id:  # another's
            spec = build.spec.model_copy(update={"precision": manifest.spec.precision})
            manifest = manifest.model_copy(update={"name": spec.name, "spec": spec})
        return self._context.queue.succeed(build, self._context.catalog, manifest, HOLDER + self.name)

    async def _fail(self, error: SinkServeError) -> None:
        if error.reason is Reason.BUILD_ENDED:  # cancelled, or taken up by another worker
            log.info("build.detached", build=self._build.name)
            return
        log.info("build.failed", build=self._build.name, reason=error.reason, cause=error.message)
        self._trace.end(self._build, error)
        await self._unless_ended(self._context.queue.fail, Failure.of(error))

    async def _unless_ended(self, change: Callable[[Build, T], None], value: T) -> None:
        """Change the build in the queue, unless somebody else has ended it."""
        with suppress(Aborted):
            await self._tell(change, value)


async def _patiently(act: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """Call `act` in a thread; if the database is unavailable, try again for about as long as the lease lasts."""
    waits = within(LEASE.total_seconds(), repeat(POLL_S))
    return await retry(partial(asyncio.to_thread, act, *args, **named), _is_unavailable, waits)


def _is_unavailable(error: Exception) -> bool:
    return isinstance(error, Unavailable) and error.reason is Reason.DATABASE_UNAVAILABLE
