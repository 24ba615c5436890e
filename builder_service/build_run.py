"""One attempt at one build: its child process ordered, answered, listened to and, in every case, cleaned up after."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog

from builder_service.build_queue import BuildQueue
from builder_service.builds import Build
from builder_service.changes import Changes, wait_a_while
from builder_service.child_process import ChildProcess, start_child
from builder_service.failure import Failure
from builder_service.machine import out_of_memory_kills
from builder_service.messages import Answer, AskKey, AskStore, Built, Failed, FromChild, Log, Order, Progress
from common.blob_claims import claim_blobs, claim_holders
from common.catalog import Catalog
from common.database import Database
from common.errors import Aborted, DataLoss, Internal, Reason, ResourceExhausted, SinkServeError
from common.manifest import Manifest
from common.store import BlobStore

POLL_S = 1.0
LAST_WORDS_S = 5.0
"""How long a child may take to end once it has said how."""
MOST_LOG_LINES = 2000

log = structlog.get_logger()
T = TypeVar("T")


@dataclass(frozen=True)
class Workshop:
    """What every build of a worker needs."""

    database: Database
    store: BlobStore
    store_url: str
    catalog: Catalog
    queue: BuildQueue
    changes: Changes
    work: Path
    source_roots: tuple[Path, ...]

    def leftovers(self) -> set[str]:
        """Ids of builds that have something to clean up, or run."""
        claims = {holder.removeprefix("builds/") for holder in claim_holders(self.database)}
        return claims | {folder.name for folder in self.work.iterdir()}

    def clean_up(self, build_id: str) -> None:
        """Remove what an attempt leaves: its folder, its claims, blobs that nobody else needs."""
        self.catalog.drop_claims(f"builds/{build_id}")
        self.store.remove_abandoned()
        shutil.rmtree(self.work / build_id, ignore_errors=True)


class WaitsForKey(Exception):
    """Another build of the same key runs; this one has to wait for its end."""

    def __init__(self, build_key: str) -> None:
        super().__init__(build_key)
        self.build_key = build_key


class BuildRun:
    """One attempt at one build."""

    def __init__(self, shop: Workshop, build: Build) -> None:
        self._shop = shop
        self._build = build
        self._lines = 0

    async def run(self) -> None:
        """Build, and say in the queue how it ended.

        If this is cancelled the child is killed and the queue keeps the build as running.
        """
        log.info("build.started", build=self._build.name, attempt=self._build.attempt)
        try:
            await self._cleanly_attempt()
        except WaitsForKey as waits:
            await self._unless_ended(self._shop.queue.wait_for_key, waits.build_key)
        except SinkServeError as error:
            await self._fail(error)
        except Exception as error:
            log.exception("build.lost", build=self._build.name, exc_info=error)
            await self._fail(Internal(Reason.INTERNAL, "the builder failed; its log has the details"))

    async def _cleanly_attempt(self) -> None:
        """Leave nothing behind. Before the build's end is known: who takes it next starts clean as well."""
        try:
            await self._attempt()
        finally:
            await asyncio.to_thread(self._shop.clean_up, self._build.build_id)

    async def _attempt(self) -> None:
        folder = self._shop.work / self._build.build_id
        folder.mkdir(parents=True, exist_ok=True)
        kills = out_of_memory_kills()
        child = await start_child()
        try:
            await child.send(self._order(folder))
            outcome = await self._while_running(child)
        finally:
            status = await child.kill()
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        if outcome is None:
            raise crash(status, child, ran_out=out_of_memory_kills() > kills)
        await self._end(outcome)

    def _order(self, folder: Path) -> Order:
        shop = self._shop
        return Order(spec=self._build.spec, work=folder, source_roots=shop.source_roots, store_url=shop.store_url)

    async def _while_running(self, child: ChildProcess) -> Built | Failed | None:
        """Listen to the child for as long as the build runs; raises Aborted when it no longer does."""
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
        with self._shop.changes.listen(self._build.build_id) as changed:
            while await asyncio.to_thread(self._shop.queue.is_running, self._build):
                await wait_a_while(changed, POLL_S)
                changed.clear()

    async def _listen(self, child: ChildProcess) -> Built | Failed | None:
        """Keep and answer what the child says until it ends; returns how it said that it ended, None if it did not."""
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
        queue, build = self._shop.queue, self._build
        if isinstance(message, Progress):
            await asyncio.to_thread(queue.advance, build, message.stage, message.done)
        elif isinstance(message, AskStore):
            await asyncio.to_thread(claim_blobs, self._shop.database, message.digests, build.name)
            await child.send(Answer(go_on=True))
        elif isinstance(message, Log):
            await self._log(message.text)

    async def _log(self, text: str) -> None:
        self._lines += 1
        if self._lines == MOST_LOG_LINES:
            text = f"this was the line {MOST_LOG_LINES}; no more are kept"
        if self._lines <= MOST_LOG_LINES:
            await asyncio.to_thread(self._shop.queue.log, self._build, text)

    async def _made_before(self, build_key: str) -> Manifest | None:
        """The manifest of this build if its engine exists under another name or version.

        Raises WaitsForKey if another build of the key runs.
        """
        if owner := await asyncio.to_thread(self._shop.queue.claim_key, self._build, build_key):
            await self._log(f"waits for builds/{owner}, which builds the same")
            raise WaitsForKey(build_key)
        return await asyncio.to_thread(self._find_made, build_key)

    def _find_made(self, build_key: str) -> Manifest | None:
        spec = self._build.spec
        for engine in self._shop.catalog.with_build_key(build_key):
            digests = [file.digest for file in engine.manifest.files]
            claim_blobs(self._shop.database, digests, self._build.name)
            try:
                for digest in digests:
                    self._shop.store.verify(digest)
            except DataLoss as error:
                self._shop.queue.log(self._build, f"{engine.reference} is the same, but {error.message}")
                continue
            self._shop.queue.log(self._build, f"{engine.reference} is the same; its files are used")
            return engine.manifest.model_copy(update={"name": spec.name, "spec": spec})
        return None

    async def _end(self, outcome: Built | Failed) -> None:
        if isinstance(outcome, Failed):
            raise outcome.failure.error()
        shop = self._shop
        engine = await asyncio.to_thread(shop.queue.succeed, self._build, shop.catalog, outcome.manifest)
        log.info("build.succeeded", build=self._build.name, engine=engine.reference)

    async def _fail(self, error: SinkServeError) -> None:
        if error.reason is Reason.BUILD_ENDED:  # cancelled, or taken up by another worker
            log.info("build.detached", build=self._build.name)
            return
        log.info("build.failed", build=self._build.name, reason=error.reason, cause=error.message)
        await self._unless_ended(self._shop.queue.fail, Failure.of(error))

    async def _unless_ended(self, change: Callable[[Build, T], None], value: T) -> None:
        """Change the build in the queue, unless somebody else has ended it."""
        with suppress(Aborted):
            await asyncio.to_thread(change, self._build, value)


def crash(status: int, child: ChildProcess, *, ran_out: bool) -> SinkServeError:
    """Why a child ended without a word; `ran_out`: the kernel has killed for want of memory meanwhile."""
    words = f"; its last line: {child.last_words[-1]}" if child.last_words else ""
    if status >= 0:
        return Internal(Reason.BUILD_CRASHED, f"the build's process ended with status {status}{words}", status=status)
    name = signal.Signals(-status).name
    if name == "SIGKILL" and ran_out:
        message = "the kernel killed the build for want of memory; free some, or choose a smaller precision or cache"
        return ResourceExhausted(Reason.OUT_OF_MEMORY, message, signal=name)
    return Internal(Reason.BUILD_CRASHED, f"the build's process was killed by {name}{words}", signal=name)
