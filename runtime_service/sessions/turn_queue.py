"""The turns of one session in memory: they wait, run one after another, and are kept before anybody hears of their end.

Belongs to the event loop. The scheduler owns the tenant's tokens and cache while a turn runs; the database owns what
is durable. Knows no streams: `tell` gets every event.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import structlog

from common.db.database import utc_now
from common.engine.engine import SlotState
from common.errors import Internal, Reason, SinkServeError, Unavailable
from runtime_service.decoding.delta import Delta
from runtime_service.decoding.token_history import TokenHistory
from runtime_service.domain.durability import Durability
from runtime_service.domain.session import Session
from runtime_service.domain.turn import FinishReason, Result, Timing, Turn, Usage
from runtime_service.engines.registry import LoadedEngine
from runtime_service.scheduling.running_turn import Outcome
from runtime_service.scheduling.scheduler_events import NeedsHistory, SchedulerEvent, TurnAdmitted
from runtime_service.scheduling.slots import Tenant
from runtime_service.scheduling.turn_scheduler import TurnScheduler
from runtime_service.sessions.ephemeral_turns import EphemeralTurns, TurnHistory
from runtime_service.sessions.events import Event, EventLog, TurnEvent, TurnFinished, TurnStarted
from runtime_service.sessions.shared import Shared
from runtime_service.sessions.turn_input import work_of

MOST_CRASHES = 2
TRIES, RETRY_S = 50, 0.2
"""How often a turn looks whether a database that is away is back, and how soon again."""
T = TypeVar("T")

log = structlog.get_logger()


@dataclass(eq=False)
class Pending:
    """A turn that runs or waits. `discard` is None until it is cancelled; `events` are all that were told of it."""

    turn: Turn
    prompt: tuple[int, ...]
    accepted_at: float
    discard: bool | None = None
    started_sequence: int = 0
    events: list[Event] = field(default_factory=list)
    ended: asyncio.Future[Outcome] | None = None

    @property
    def began(self) -> bool:
        """Whether it has a slot."""
        return self.started_sequence > 0


class TurnQueue:
    """`add` after the turn is durable. `break_down` is called with what cannot be helped, such as a lost database."""

    def __init__(
        self,
        session: Session,
        engine: LoadedEngine,
        shared: Shared,
        tell: Callable[[Event], None],
        break_down: Callable[[SinkServeError], None],
    ) -> None:
        self.session = session
        self.history: TurnHistory = shared.repository
        if not session.is_kept:
            self.history = EphemeralTurns(session, shared.repository, engine.limits.tokens_to_replay(session.window))
        kept = shared.settings.kept_events, shared.settings.kept_event_bytes
        self.log = EventLog(session.epoch, session.last_sequence, *kept)
        self.tenant = Tenant(
            session.name, _context(session), key=session.key if session.is_kept else 0, epoch=session.epoch
        )
        self.cache_is_kept = False
        self._engine = engine
        self._shared = shared
        self._tell = tell
        self._break_down = break_down
        self._waiting: deque[Pending] = deque()
        self._running: Pending | None = None
        self._keeping: asyncio.Task[None] | None = None  # the end of what runs, on its way to the database
        self.task: asyncio.Task[None] | None = None

    @property
    def pending(self) -> list[Pending]:
        """Turns that run or wait, in order."""
        return [*([self._running] if self._running else []), *self._waiting]

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def find(self, turn_id: str) -> Pending | None:
        """A turn that runs or waits."""
        return next((pending for pending in self.pending if pending.turn.turn_id == turn_id), None)

    def add(self, pending: Pending) -> None:
        """Run a turn when those before it have ended."""
        self._engine.turns += 1
        self._waiting.append(pending)
        if self.task is None:
            self.task = asyncio.create_task(self._run(), name=f"turns of {self.session.name}")

    def cancel(self, turn_id: str, *, discard: bool) -> None:
        """Cancel a turn that runs or waits; any other stays as it is."""
        pending = self.find(turn_id)
        if pending is None or pending.discard is not None:
            return
        pending.discard = discard
        if pending.ended is not None:
            self._post(lambda scheduler: scheduler.cancel_turn(self.tenant, turn_id, discard=discard))

    def pause(self, *, paused: bool) -> None:
        """Stop feeding the running turn, or go on."""
        self._post(lambda scheduler: scheduler.pause(self.tenant, paused=paused))

    async def export(self) -> SlotState | None:
        """A copy of the cache, if there is one."""
        copied: list[SlotState | None] = [None]

        def copy(scheduler: TurnScheduler) -> None:
            copied[0] = scheduler.export_cache(self.tenant)

        await self._engine.thread.post_and_wait(copy)
        return copied[0]

    async def close(self, *, keep: bool) -> SlotState | None:
        """Drop what runs where it is: it runs again when another process, or this one, opens the session.

        Returns what the cache held, if it is to `keep`.
        """
        interrupted = self._running
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
        if interrupted is not None and not await self._was_kept():
            turn = replace(interrupted.turn, stops=interrupted.turn.stops + 1)
            with suppress(SinkServeError):  # another server has the session, or the database is lost
                await self._write(partial(self.history.note_attempt, self.session, turn))
        left: list[SlotState | None] = [None]

        def leave(scheduler: TurnScheduler) -> None:
            left[0] = scheduler.release_tenant(self.tenant, keep=keep)

        await self._engine.thread.post_and_wait(leave)
        state = left[0]  # of a turn whose end could not be kept nothing counts
        return state if state is not None and state.position <= self.session.position else None

    async def _was_kept(self) -> bool:
        """Whether the turn that ran has ended for good, although nobody waits for that any more."""
        if self._keeping is None:
            return False
        await asyncio.wait([self._keeping])
        return self._keeping.exception() is None

    async def _run(self) -> None:
        try:
            while self._waiting:
                self._running = self._waiting.popleft()
                event = await self._perform(self._running)
                self._engine.turns -= 1
                self._running = None
                self._tell(event)
                await self._keep_snapshot()
        except Exception as error:
            turn_id = self._running.turn.turn_id if self._running else None
            log.exception("session.broken", session=self.session.name, turn=turn_id)
            failure = Internal(Reason.INTERNAL, "the server failed; its log has the details")
            self._break_down(error if isinstance(error, SinkServeError) else failure)
        finally:
            self._engine.turns -= len(self.pending)
            self._running = None
            self._waiting.clear()
            self.task = None

    async def _keep_snapshot(self) -> None:
        """Copy the cache now and then, before the next turn changes it, and store it beside that."""
        every = self._shared.settings.snapshot_turns
        kept = self.session.options.durability is Durability.TOKENS_AND_KV
        if not (kept and every and self.session.turns % every == 0):
            return
        if (state := await self.export()) is not None:
            store = self._store_snapshot(state)
            self._shared.background.start(store, f"snapshot of {self.session.name}")

    async def _store_snapshot(self, state: SlotState) -> None:
        if await self._shared.caches.snapshot(self.session, state):
            self.cache_is_kept = True

    async def _perform(self, pending: Pending) -> Event:
        """Run a turn and keep how it ended; returns the event that says so."""
        self._keeping = None
        if pending.turn.attempt > 1:
            await self._until_written(partial(self.history.note_attempt, self.session, pending.turn))
        outcome = await self._outcome(pending)
        turn = self._finished(pending, outcome)
        assert turn.result is not None
        self._keeping = asyncio.create_task(self._keep_end(turn, outcome.tokens), name=f"end of {turn.turn_id}")
        await asyncio.shield(self._keeping)
        self._shared.meter.turn_ended(self.session.name, turn.turn_id, self._engine.published.reference, outcome)
        return self._note(pending, TurnFinished(turn.result))

    async def _keep_end(self, turn: Turn, tokens: tuple[int, ...]) -> None:
        assert turn.result is not None
        assert turn.ended_at is not None
        session = self.session.after(turn.result, turn.ended_at)
        await self._until_written(partial(self.history.finish_turn, session, turn, tokens))
        self.session = self.session.after(turn.result, turn.ended_at)

    async def _outcome(self, pending: Pending) -> Outcome:
        if pending.turn.attempt - pending.turn.stops > MOST_CRASHES:
            what = f"the server died {MOST_CRASHES} times while it ran this turn"
            return self._not_run(pending, FinishReason.ERROR, Internal(Reason.INTERNAL, what))
        if pending.discard is not None:
            return self._not_run(pending, FinishReason.CANCELLED)
        pending.ended = asyncio.get_running_loop().create_future()
        engine = self._engine
        work = work_of(
            pending.turn, pending.prompt, self.session, engine.manifest, engine.text, accepted_at=pending.accepted_at
        )
        self._post(lambda scheduler: scheduler.submit(self.tenant, work, partial(self._hear, pending)))
        return await pending.ended

    def _not_run(self, pending: Pending, reason: FinishReason, error: SinkServeError | None = None) -> Outcome:
        usage = Usage(position=self.session.position)
        timing = Timing(queue_s=time.monotonic() - pending.accepted_at)
        return Outcome(reason, usage, timing, self.session.position, error=error)

    def _hear(self, pending: Pending, event: SchedulerEvent) -> None:
        """What the scheduler tells, in the event loop."""
        turn = pending.turn
        match event:
            case TurnAdmitted():
                started = TurnStarted(len(pending.prompt), turn.attempt, turn.options)
                pending.started_sequence = self.log.last + 1
                self._tell(self._note(pending, started))
            case Delta() as delta:
                self._tell(self._note(pending, delta))
            case NeedsHistory(tokens):
                self._shared.background.start(self._refill(turn.turn_id, tokens), f"history of {self.session.name}")
            case Outcome() as outcome:
                if pending.ended is not None and not pending.ended.done():
                    pending.ended.set_result(outcome)

    async def _refill(self, turn_id: str, tokens: int) -> None:
        try:
            state = await self._patiently(partial(self._shared.caches.fetch, self.session))
            if state is not None:
                tokens = max(self.session.window.window, self.session.position - state.position)
            history = await self._until_written(partial(self.history.history, self.session, tokens))
        except Exception:
            log.exception("session.history_unreadable", session=self.session.name, turn=turn_id)
            error = Internal(Reason.INTERNAL, "the session's history could not be read")
            self._post(lambda scheduler: scheduler.fail_turn(self.tenant, error))
        else:
            self._post(lambda scheduler: scheduler.refill(self.tenant, *history, state))

    def _finished(self, pending: Pending, outcome: Outcome) -> Turn:
        usage = outcome.usage
        result = Result(
            reason=outcome.reason,
            usage=usage,
            timing=outcome.timing,
            prompt_tokens=len(pending.prompt),
            text=outcome.text,
            token_ids=outcome.tokens[usage.prompt_tokens :][: usage.generated_tokens],
            stop_sequence=outcome.stop_sequence,
            error=outcome.error,
            started_sequence=pending.started_sequence,
            finished_sequence=self.log.last + 1,
        )
        return replace(pending.turn, result=result, ended_at=utc_now())

    def _note(self, pending: Pending, body: TurnEvent) -> Event:
        event = self.log.append(pending.turn.turn_id, body)
        pending.events.append(event)
        return event

    def _post(self, act: Callable[[TurnScheduler], None]) -> None:
        self._engine.thread.post(act)

    async def _until_written(self, act: Callable[[], T]) -> T:
        """As `_write`, patiently; `act` may be done twice."""
        return await self._patiently(partial(self._write, act))

    async def _patiently(self, act: Callable[[], Awaitable[T]]) -> T:
        """Of a database that is away it is asked again for a while."""
        for _ in range(1, TRIES):  # not by the clock, which goes on while a process is paused
            with suppress(Unavailable):
                return await act()
            await asyncio.sleep(RETRY_S)
        return await act()

    async def _write(self, act: Callable[[], T]) -> T:
        return await self._shared.writer.do(act)


def retell(turn: Turn, result: Result) -> tuple[Event, ...]:
    """Events of a turn that ended, from what is kept of it: its reply in one piece, without log-probabilities."""
    finished = Event(result.finished_sequence, TurnFinished(result), turn.turn_id)
    if not result.started_sequence:
        return (finished,)
    started = TurnStarted(result.prompt_tokens, turn.attempt, turn.options)
    first = Event(result.started_sequence, started, turn.turn_id)
    if not result.token_ids:
        return (first, finished)
    reply = Event(result.finished_sequence - 1, Delta(result.text, result.token_ids), turn.turn_id)
    return (first, reply, finished)


def _context(session: Session) -> TokenHistory:
    if session.position == len(session.opening):
        return TokenHistory(session.window, session.opening)
    return TokenHistory.stored(session.window, session.position)
