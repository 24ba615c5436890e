"""Decides what each step of an engine does, does it, and tells what came of it. The sole owner of the engine.

No threads and no I/O: `EngineThread` drives it, and tests drive it step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from common.engine.engine import Engine, Feed, FloatArray, SlotState
from common.errors import Internal, Reason, SinkServeError
from common.window import linear_run
from runtime_service.decoding.sampling import Tokens
from runtime_service.forms.masks import PendingMask
from runtime_service.scheduling.late import Late, patience
from runtime_service.scheduling.limits import Limits
from runtime_service.scheduling.scheduler_events import Emit, TurnAdmitted
from runtime_service.scheduling.slots import Residence, Slots, Tenant
from runtime_service.scheduling.step_plan import Candidate, Pace, Step, most_drafted, plan
from runtime_service.scheduling.turn_scheduler import TurnScheduler


class Scheduler(TurnScheduler):
    """All turns of one engine. Methods come from one thread; `emit` is called in it."""

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        clock: Callable[[], float],
        emit: Emit,
        spill: Callable[[Tenant, SlotState], bool] = lambda *_: False,
        *,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """`wake` is called in any thread, when there may be something to do again."""
        self.slots = Slots(engine, limits.parked_bytes, spill)
        super().__init__(clock, emit, self.slots.moves)
        self._engine = engine
        self._limits = limits
        self._wake = wake
        self._running: list[Tenant] = []
        self._pace = Pace(limits.stall_s, engine.geometry.chunk)
        self._before = Step({})
        self._last_chunk = -1

    @property
    def residents(self) -> int:
        """Sessions whose cache is in a slot."""
        return len(self.slots.residents)

    def export_cache(self, tenant: Tenant) -> SlotState | None:
        """What the cache of `tenant` holds, which runs no turn; None if it is nowhere."""
        return self.slots.export(tenant)

    # A step

    def step(self) -> bool:
        """Do one step of the engine; False: there was nothing to do, nor will there be until somebody asks."""
        settled = self._settle_late()
        self._admit()
        step = self._next_step()
        if step.counts:
            self._feed(step)
        return bool(step.counts) or settled

    def _admit(self) -> None:
        for tenant in self._next_waiting():
            if not self.slots.available(tenant) and not self._take_from_another(tenant):
                return
            if self._has_tokens(tenant):
                self._waiting.remove(tenant)
                self._guarded([tenant], partial(self._start, tenant))

    def _take_from_another(self, tenant: Tenant) -> bool:
        """Let another turn wait for the sake of `tenant`; False: there is none that has to."""
        if tenant.yields or (found := self._one_with_more(tenant)) is None:
            return False
        found.suspended = True
        self._suspend(found)
        self._resume(found)
        return True

    def _one_with_more(self, tenant: Tenant) -> Tenant | None:
        """A turn whose client trickles, or else the last of a principal that runs two more turns than that of `tenant`.

        Two: with one more, they would take it from each other in turn.
        """
        if (trickles := next((each for each in self._running if each.yields), None)) is not None:
            return trickles
        running = self._running_by_principal()
        most = max(running.values(), default=0)
        if most < running[tenant.principal] + 2:
            return None
        return next(each for each in reversed(self._running) if running[each.principal] == most)

    def _has_tokens(self, tenant: Tenant) -> bool:
        """Whether all that has to be fed is at hand; asks for it otherwise."""
        history = tenant.history
        needed = min(history.length, self._limits.tokens_to_replay(history.window))
        if tenant.residence is not Residence.STORED:
            return True
        if not tenant.spilled and history.kept(history.length) >= needed:
            return True
        own = history.length - tenant.running.start  # of a suspended turn: nobody else has them yet
        self._ask_history(tenant, max(history.window.window, needed - own) if own else needed)
        return False

    def _start(self, tenant: Tenant) -> None:
        again = tenant.suspended
        if again or self._begin(tenant):
            tenant.suspended = False
            self.slots.acquire(tenant)
            self._running.append(tenant)
            if not again:
                self._tell(tenant, TurnAdmitted())

    def _next_step(self) -> Step:
        runnable = [tenant for tenant in self._running if tenant.slot is not None]
        candidates = [Candidate(_slot(tenant), self._ready(tenant)) for tenant in runnable]
        most, alone = self._pace.tokens, self._pace.alone
        return plan(candidates, most=most, alone=alone, before=self._before, last_chunk=self._last_chunk)

    def _ready(self, tenant: Tenant) -> int:
        history = tenant.history
        longest = self._engine.longest_step(history.fed)
        run = linear_run(self._engine.geometry, history.window.sinks, history.fed, longest)
        return len(history.next_tokens(min(run, history.unfed)))

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
        history = tenant.history
        behind = linear_run(self._engine.geometry, history.window.sinks, history.fed) - 1
        return tenant.running.draft(min(most, behind))

    def _step_engine(self, fed: list[Tenant], step: Step) -> None:
        drafts = self._drafts(fed, step)
        feeds = tuple(_feed_of(tenant, step, drafts) for tenant in self.slots.residents)
        width = max(len(feed.tokens) for feed in feeds)
        masks = self._begin_masks(fed, step, drafts)
        began = self._clock()
        logits = self._engine.step(feeds)
        took = self._clock() - began
        if step.chunk is not None:
            self._pace.note(width, took)
        self._note_written(step, width)
        self.masks.wait(masks.values(), patience(took))
        finite = np.asarray(np.isfinite(logits).all(axis=1))  # [wanted token]: asked once, for all
        done = 0
        for tenant in fed:
            draft = drafts.get(_slot(tenant), ())
            own = slice(done, done + 1 + len(draft))
            done = own.stop
            tenant.history.advance(step.counts[_slot(tenant)])
            mask = masks.get(_slot(tenant))
            act = partial(self._after_step, tenant, logits[own], draft, mask, is_finite=bool(finite[own].all()))
            self._guarded([tenant], act)

    def _begin_masks(self, fed: list[Tenant], step: Step, drafts: dict[int, tuple[int, ...]]) -> dict[int, PendingMask]:
        """Find what may come next in replies with a form, while the engine computes; by slot."""
        masks = {}
        for tenant in fed:
            slot, run = _slot(tenant), tenant.running
            if (one := run.masks_wanted(drafts.get(slot, ()), step.counts[slot])) is not None:
                masks[slot] = run.late.mask if run.late is not None else self.masks.begin(one)
        return masks

    def _note_written(self, step: Step, width: int) -> None:
        """Every slot of the batch writes `width` rows: its tokens, its draft, and padding."""
        multiple = self._engine.slot_multiple
        first = min(step.counts) // multiple * multiple
        for tenant in self.slots.residents:
            if first <= _slot(tenant) <= max(step.counts):
                tenant.written = max(tenant.written, tenant.history.fed + width)

    def _after_step(
        self, tenant: Tenant, logits: FloatArray, draft: tuple[int, ...], mask: PendingMask | None, *, is_finite: bool
    ) -> None:
        if not is_finite:
            self.fail_turn(tenant, Internal(Reason.NON_FINITE_LOGITS, "the model gave logits that are not finite"))
        elif tenant.history.unfed:
            return
        elif mask is not None and not mask.is_done:
            first = logits[:1].copy()  # not the draft: others write where its rows are
            tenant.running.late = Late(first, mask, self._limits.slow_form_s)
            mask.future.add_done_callback(lambda _: self._wake())
        else:
            allowed = mask.take()[: len(logits)] if mask is not None else ()
            self._go_on(tenant, logits, draft, allowed, tenant.running.misfit)

    def _go_on(
        self,
        tenant: Tenant,
        logits: FloatArray,
        draft: tuple[int, ...],
        allowed: Sequence[Tokens],
        error: SinkServeError | None,
    ) -> None:
        """Accept what is sampled; where an `error` is what came of its form, without that or not at all."""
        run, now = tenant.running, self._clock()
        run.late = None
        if error is not None and not run.let_go():
            self.fail_turn(tenant, error)
            return
        for delta, reason in run.accept(logits, draft, now, () if error else allowed):
            self._accepted(tenant, delta, reason, now)

    # Those whose mask was late

    def _settle_late(self) -> bool:
        """Go on with those whose mask has come, and end those whose never may; False: there was none."""
        now = self._clock()
        settled = [(tenant, late) for tenant, late in self._late() if late.mask.is_done or late.left_s(now) <= 0]
        for tenant, late in settled:
            self._guarded([tenant], partial(self._settle, tenant, late))
        return bool(settled)

    def _settle(self, tenant: Tenant, late: Late) -> None:
        if late.mask.is_done:
            self._after_step(tenant, late.logits, (), late.mask, is_finite=True)
        else:
            late.give_up()
            self._go_on(tenant, late.logits, (), (), late.error)

    @property
    def due_s(self) -> float | None:
        """When the first of those whose mask was late has waited too long."""
        now = self._clock()
        return min((max(0.0, late.left_s(now)) for _, late in self._late()), default=None)

    def _late(self) -> list[tuple[Tenant, Late]]:
        """Those with nothing else to be fed: where a cache was lost, all of it comes before."""
        running = [(tenant, tenant.running.late) for tenant in self._running]
        return [(tenant, late) for tenant, late in running if late is not None and not tenant.history.unfed]

    # Where caches go

    def _take_back(self, tenant: Tenant, start: int) -> None:
        self.slots.take_back(tenant, start)

    def _lose_cache(self, tenant: Tenant) -> None:
        self.slots.lose(tenant)

    def _restore(self, tenant: Tenant, state: SlotState | None) -> None:
        tenant.spilled = False
        if state is not None:
            self.slots.put_back(tenant, state)
            tenant.history.restore(state.position)
            self.moves.restored += 1
        elif (error := self._limits.replay_refused(tenant.history)) is not None:
            self.fail_turn(tenant, error)

    def _stop_running(self, tenant: Tenant) -> None:
        if tenant in self._running:
            self._running.remove(tenant)
        self.slots.rest(tenant)

    def _is_running(self, tenant: Tenant) -> bool:
        return tenant in self._running

    def _suspend(self, tenant: Tenant) -> None:
        self._stop_running(tenant)

    def _resume(self, tenant: Tenant) -> None:
        if tenant not in self._waiting:
            self._waiting.append(tenant)


def _feed_of(tenant: Tenant, step: Step, drafts: dict[int, tuple[int, ...]]) -> Feed:
    """What `tenant` is fed in a step, its draft behind its own tokens; nothing if the step is not its."""
    slot, history = _slot(tenant), tenant.history
    draft = drafts.get(slot, ())
    tokens = history.next_tokens(step.counts.get(slot, 0)) + draft
    return Feed(slot, history.fed, history.window, tokens, wanted=1 + len(draft))


def _slot(tenant: Tenant) -> int:
    assert tenant.slot is not None, tenant
    return tenant.slot
