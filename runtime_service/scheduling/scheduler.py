"""Decides what each step of an engine does, does it, and tells what came of it. The sole owner of the engine.

No threads and no I/O: `EngineThread` drives it, and tests drive it step by step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import structlog

from common.engine.engine import Engine, Feed, FloatArray, SlotState
from common.errors import FailedPrecondition, Internal, Reason, SinkServeError
from common.window import SessionWindow, linear_run
from runtime_service.decoding.reply import Delta
from runtime_service.decoding.token_history import TokenHistory
from runtime_service.domain.turn import FinishReason
from runtime_service.scheduling.cache_moves import CacheMoves
from runtime_service.scheduling.running_turn import Outcome, RunningTurn, Work
from runtime_service.scheduling.slots import Residence, Slots, Tenant
from runtime_service.scheduling.step_plan import Candidate, Pace, Step, most_drafted, plan
from runtime_service.scheduling.turn_scheduler import Began, Emit, Ended, Listener, NeedsHistory, RunEvent, Wrote

log = structlog.get_logger()


@dataclass(frozen=True)
class Limits:
    """Bounds of one engine's scheduler."""

    layers: int
    """Layers of the model: so many windows back reaches what a token depends on."""
    max_replay_tokens: int
    """Most tokens that may be fed to compute a lost cache again."""
    parked_bytes: int
    """Host memory for parked caches."""
    stall_s: float
    """How long a chunk of somebody's input may hold up those who are decoding."""

    def history(self, window: SessionWindow) -> int:
        """Tokens right before a position that, after the sinks, make its cache exact again."""
        return max(window.window, self.layers * (window.window - 1))


class Scheduler:
    """All turns of one engine. Methods come from one thread; `emit` is called in it."""

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        clock: Callable[[], float],
        emit: Emit,
        spill: Callable[[Tenant, SlotState], bool] = lambda *_: False,
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._clock = clock
        self._emit = emit
        self._listeners: dict[Tenant, Listener] = {}
        self._waiting: deque[Tenant] = deque()
        self._running: list[Tenant] = []
        self._starving: set[Tenant] = set()
        self._pace = Pace(limits.stall_s, engine.geometry.chunk)
        self._before = Step({})
        self._last_chunk = -1
        self.slots = Slots(engine, limits.parked_bytes, spill)

    @property
    def residents(self) -> int:
        """Sessions whose cache is in a slot."""
        return len(self.slots.residents)

    @property
    def moves(self) -> CacheMoves:
        """How often caches changed their place."""
        return self.slots.moves

    # What others ask for

    def submit(self, tenant: Tenant, work: Work, listener: Listener) -> None:
        """Run a turn of `tenant` as soon as a slot is free; it must not have one that runs."""
        assert tenant.run is None, tenant
        tenant.run = RunningTurn(work, tenant.context)
        self._listeners[tenant] = listener
        self._waiting.append(tenant)

    def cancel(self, tenant: Tenant, turn_id: str, *, discard: bool) -> None:
        """End the turn before the next step; one that has ended stays as it is."""
        run = tenant.run
        if run is None or run.work.turn_id != turn_id:
            return
        if discard:
            fed = tenant.context.fed
            self.slots.take_back(tenant, run.start)
            self._end(tenant, run.discard(self._clock(), fed))
        else:
            self._wrote(tenant, run.flush())
            self._end(tenant, run.cancel(self._clock()))

    def pause(self, tenant: Tenant, *, paused: bool) -> None:
        """Feed nothing more to `tenant`, or go on."""
        tenant.paused = paused

    def refill(
        self,
        tenant: Tenant,
        sinks: Sequence[int],
        start: int,
        recent: Sequence[int],
        state: SlotState | None = None,
    ) -> None:
        """Answer `NeedsHistory`."""
        if tenant not in self._starving:
            return
        self._starving.discard(tenant)
        tenant.spilled = False
        tenant.context.refill(sinks, start, recent)
        if state is not None:
            self.slots.put_back(tenant, state)
            tenant.context.restore(state.position)
            self.slots.moves.restored += 1
        elif (error := replay_refused(tenant.context, self._limits)) is not None:
            self.fail(tenant, error)

    def export(self, tenant: Tenant) -> SlotState | None:
        """What the cache of `tenant` holds, which runs no turn; None if it is nowhere."""
        return self.slots.export(tenant)

    def fail(self, tenant: Tenant, error: SinkServeError) -> None:
        """End the turn of `tenant` with `error`, as if it had not been. Its tokens come back from the database."""
        if (run := tenant.run) is not None:
            self.slots.lose(tenant)
            tenant.context = TokenHistory.stored(tenant.context.window, run.start)
            self._end(tenant, run.fail(error, self._clock()))

    def fail_all(self, error: SinkServeError) -> None:
        """End every turn with `error`."""
        for tenant in (*self._waiting, *self._running):
            self.fail(tenant, error)

    def leave(self, tenant: Tenant, *, keep: bool) -> SlotState | None:
        """Forget `tenant`, with the turn that it runs, and free what it holds; returns its cache if it is to `keep`."""
        self.cancel(tenant, tenant.run.work.turn_id if tenant.run else "", discard=True)
        state = self.slots.export(tenant) if keep else None
        self.slots.lose(tenant)
        return state

    # The plan of a step

    def step(self) -> bool:
        """Do one step of the engine; False: there was nothing to do, nor will there be until somebody asks."""
        self._admit()
        step = self._next_step()
        if step.counts:
            self._feed(step)
        return bool(step.counts)

    def _admit(self) -> None:
        for tenant in list(self._waiting):
            if tenant in self._starving or tenant.run is None:
                continue
            if not self.slots.available(tenant):
                return
            if self._has_tokens(tenant):
                self._waiting.remove(tenant)
                self._guarded([tenant], partial(self._start, tenant))

    def _has_tokens(self, tenant: Tenant) -> bool:
        """Whether all that has to be fed is at hand; asks for it otherwise."""
        context = tenant.context
        needed = min(context.length, self._limits.history(context.window))
        if tenant.residence is not Residence.STORED:
            return True
        if not tenant.spilled and context.kept(context.length) >= needed:
            return True
        self._starving.add(tenant)
        self._tell(tenant, NeedsHistory(needed))
        return False

    def _start(self, tenant: Tenant) -> None:
        run = self._run(tenant)
        if not run.begin(self._clock()):
            self._end(tenant, run.finish(FinishReason.CONTEXT_FULL, self._clock()))
            return
        self.slots.acquire(tenant)
        self._running.append(tenant)
        self._tell(tenant, Began())

    def _next_step(self) -> Step:
        runnable = [tenant for tenant in self._running if not tenant.paused and tenant.slot is not None]
        candidates = [Candidate(_slot(tenant), self._ready(tenant)) for tenant in runnable]
        return plan(candidates, most=self._pace.tokens, before=self._before, last_chunk=self._last_chunk)

    def _ready(self, tenant: Tenant) -> int:
        context = tenant.context
        run = linear_run(self._engine.geometry, context.window.sinks, context.fed)
        return len(context.next_tokens(min(run, context.unfed)))

    def _feed(self, step: Step) -> None:
        fed = [tenant for tenant in self.slots.residents if tenant.slot in step.counts]
        self._before = step
        self._last_chunk = self._last_chunk if step.chunk is None else step.chunk
        self._guarded(fed, partial(self._step_engine, fed, step))

    def _drafts(self, fed: list[Tenant], step: Step) -> dict[int, tuple[int, ...]]:
        """What those who decode may say next, by slot."""
        most = most_drafted(step, rows=self._engine.draft_rows, multiple=self._engine.slot_multiple)
        if not most:
            return {}
        return {_slot(tenant): self._draft(tenant, most) for tenant in fed}

    def _draft(self, tenant: Tenant, most: int) -> tuple[int, ...]:
        context = tenant.context
        behind = linear_run(self._engine.geometry, context.window.sinks, context.fed) - 1
        return self._run(tenant).draft(min(most, behind))

    def _step_engine(self, fed: list[Tenant], step: Step) -> None:
        drafts = self._drafts(fed, step)
        feeds = tuple(_feed_of(tenant, step, drafts) for tenant in self.slots.residents)
        width = max(len(feed.tokens) for feed in feeds)
        began = self._clock()
        logits = self._engine.step(feeds)
        if step.chunk is not None:
            self._pace.note(width, self._clock() - began)
        self._note_written(step, width)
        finite = np.asarray(np.isfinite(logits).all(axis=1))  # [wanted token]: asked once, for all
        done = 0
        for tenant in fed:
            draft = drafts.get(_slot(tenant), ())
            own = slice(done, done + 1 + len(draft))
            done = own.stop
            tenant.context.advance(step.counts[_slot(tenant)])
            act = partial(self._after_step, tenant, logits[own], draft, is_finite=bool(finite[own].all()))
            self._guarded([tenant], act)

    def _note_written(self, step: Step, width: int) -> None:
        """Every slot of the batch writes `width` rows: its tokens, its draft, and padding."""
        multiple = self._engine.slot_multiple
        first = min(step.counts) // multiple * multiple
        for tenant in self.slots.residents:
            if first <= _slot(tenant) <= max(step.counts):
                tenant.written = max(tenant.written, tenant.context.fed + width)

    def _after_step(self, tenant: Tenant, logits: FloatArray, draft: tuple[int, ...], *, is_finite: bool) -> None:
        run, now = self._run(tenant), self._clock()
        if not is_finite:
            self.fail(tenant, Internal(Reason.NON_FINITE_LOGITS, "the model gave logits that are not finite"))
            return
        if tenant.context.unfed:
            return
        for delta, reason in run.accept(logits, draft, now):
            self._wrote(tenant, delta)
            if reason is not None:
                self._wrote(tenant, run.flush())
                self._end(tenant, run.finish(reason, now))

    # How turns end

    def _end(self, tenant: Tenant, outcome: Outcome) -> None:
        for queue in (self._waiting, self._running):
            if tenant in queue:
                queue.remove(tenant)
        self._starving.discard(tenant)
        tenant.context.trim()
        self.slots.rest(tenant)
        tenant.run, tenant.paused = None, False
        self._emit(self._listeners.pop(tenant), Ended(outcome))

    def _guarded(self, tenants: list[Tenant], act: Callable[[], None]) -> None:
        """Whatever fails in `act` ends the turns of `tenants`, and nothing else."""
        try:
            act()
        except Exception as error:
            turns = [tenant.run.work.turn_id for tenant in tenants if tenant.run]
            log.exception("engine.step_failed", sessions=[tenant.name for tenant in tenants], turns=turns)
            for tenant in tenants:
                self.fail(tenant, Internal(Reason.INTERNAL, f"the engine failed: {type(error).__name__}"))

    def _wrote(self, tenant: Tenant, delta: Delta | None) -> None:
        if delta is not None:
            self._tell(tenant, Wrote(delta))

    def _tell(self, tenant: Tenant, event: RunEvent) -> None:
        self._emit(self._listeners[tenant], event)

    def _run(self, tenant: Tenant) -> RunningTurn:
        assert tenant.run is not None, tenant
        return tenant.run


def _feed_of(tenant: Tenant, step: Step, drafts: dict[int, tuple[int, ...]]) -> Feed:
    """What `tenant` is fed in a step, its draft behind its own tokens; nothing if the step is not its."""
    slot, context = _slot(tenant), tenant.context
    draft = drafts.get(slot, ())
    tokens = context.next_tokens(step.counts.get(slot, 0)) + draft
    return Feed(slot, context.fed, context.window, tokens, wanted=1 + len(draft))


def _slot(tenant: Tenant) -> int:
    assert tenant.slot is not None, tenant
    return tenant.slot


def replay_refused(context: TokenHistory, limits: Limits) -> SinkServeError | None:
    """Why the cache of a session cannot be computed again, if it cannot."""
    tokens = min(context.length, context.window.sinks + limits.history(context.window))
    if tokens <= limits.max_replay_tokens:
        return None
    return FailedPrecondition(
        Reason.REPLAY_TOO_LONG,
        f"the session's cache is lost and {tokens} tokens would have to be fed again; "
        f"the server allows {limits.max_replay_tokens} (max_replay_tokens)",
        tokens=tokens,
        max_replay_tokens=limits.max_replay_tokens,
    )
