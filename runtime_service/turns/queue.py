"""The turns of one session that were accepted: they wait, and run one after another.

Belongs to the event loop. Knows no streams: `publish` gets every event.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import structlog
from structlog.contextvars import bind_contextvars

from common.engine.engine import SlotState
from common.errors import Internal, Reason, SinkServeError
from common.panics import pass_on_ends
from runtime_service.scheduling.turn_scheduler import TurnScheduler
from runtime_service.turns.events import Event
from runtime_service.turns.pending import PendingTurn
from runtime_service.turns.run import TurnRun
from runtime_service.turns.session_state import SessionState

log = structlog.get_logger()


class TurnQueue:
    """`add` after the turn is durable. `on_broken` is called with what cannot be helped, such as a lost database."""

    def __init__(
        self, state: SessionState, publish: Callable[[Event], None], on_broken: Callable[[SinkServeError], None]
    ) -> None:
        self._state = state
        self._publish = publish
        self._on_broken = on_broken
        self._waiting: deque[PendingTurn] = deque()
        self._running: TurnRun | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def pending(self) -> list[PendingTurn]:
        """Turns that run or wait, in order."""
        return [*([self._running.pending] if self._running else []), *self._waiting]

    @property
    def waiting(self) -> list[PendingTurn]:
        """Turns that wait, in order."""
        return list(self._waiting)

    def find(self, turn_id: str) -> PendingTurn | None:
        """A turn that runs or waits."""
        return next((pending for pending in self.pending if pending.turn_id == turn_id), None)

    def add(self, pending: PendingTurn) -> None:
        """Run a turn when those before it have ended."""
        self._count(pending, 1)
        self._waiting.append(pending)
        if self.task is None:
            self.task = asyncio.create_task(self._run_all(), name=f"turns of {self._state.session.name}")

    def cancel_turn(self, turn_id: str, *, discard: bool) -> None:
        """Cancel a turn that runs or waits; any other stays as it is."""
        pending = self.find(turn_id)
        if pending is None or pending.discard is not None:
            return
        pending.discard = discard
        if self._running is not None and self._running.pending is pending:
            self._running.cancel_turn()

    def pause(self, *, paused: bool) -> None:
        """Stop feeding the running turn, or go on."""
        self._state.engine.thread.post(lambda scheduler: scheduler.pause(self._state.tenant, paused=paused))

    async def export_cache(self) -> SlotState | None:
        """A copy of the cache, if there is one."""
        return await self._of_scheduler(lambda scheduler: scheduler.export_cache(self._state.tenant))

    async def stop(self, *, keep: bool) -> SlotState | None:
        """Stop the running turn where it is. It runs again when another process, or this one, opens the session.

        Returns what the cache held, if it is to `keep`.
        """
        interrupted = self._running
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
        if interrupted is not None and not await interrupted.is_written():
            with suppress(SinkServeError):  # another server has the session, or the database is lost
                await interrupted.note_stop()
        state = await self._of_scheduler(lambda scheduler: scheduler.release_tenant(self._state.tenant, keep=keep))
        # of a turn whose end could not be written nothing counts
        return state if state is not None and state.position <= self._state.session.position else None

    async def _of_scheduler(self, act: Callable[[TurnScheduler], SlotState | None]) -> SlotState | None:
        """What `act` returns in the scheduler's thread; None if that has ended."""
        found: list[SlotState | None] = [None]

        def take(scheduler: TurnScheduler) -> None:
            found[0] = act(scheduler)

        await self._state.engine.thread.post_and_wait(take)
        return found[0]

    async def _run_all(self) -> None:
        try:
            while self._waiting:
                pending = self._waiting.popleft()
                bind_contextvars(request=pending.request_id)  # this task is that of the first turn's call
                self._running = TurnRun(self._state, pending, self._publish)
                finished = await self._running.run()
                self._count(self._running.pending, -1)
                self._running = None
                self._publish(finished)
                await self._keep_snapshot()
        except BaseException as error:
            pass_on_ends(error)
            turn_id = self._running.pending.turn_id if self._running else None
            log.exception("session.broken", session=self._state.session.name, turn=turn_id)
            failure = Internal(Reason.INTERNAL, "the server failed; its log has the details")
            self._on_broken(error if isinstance(error, SinkServeError) else failure)
        finally:
            for pending in self.pending:
                self._count(pending, -1)
            self._running = None
            self._waiting.clear()
            self.task = None

    def _count(self, pending: PendingTurn, count: int) -> None:
        """Note a turn among those of the engine, of the server and of the principal, or that it is no more."""
        self._state.engine.add_turns(count)
        self._state.shared.waiting.add(count * pending.size_bytes)
        self._state.shared.turn_counts.add(self._state.session.principal, count)

    async def _keep_snapshot(self) -> None:
        """Copy the cache now and then, before the next turn changes it, and store it beside that."""
        every = self._state.settings.snapshot_turns
        if not (self._state.keeps_snapshots and every and self._state.session.turns % every == 0):
            return
        if (cache := await self.export_cache()) is not None:
            self._state.in_background(self._store_snapshot(cache), "snapshot")

    async def _store_snapshot(self, cache: SlotState) -> None:
        if await self._state.shared.caches.store_snapshot(self._state.session, cache):
            self._state.cache_is_kept = True
