"""What runs the turns of one engine: turns in, events out. How turns wait and end is here.

How they run is in the two that do it: `Scheduler` steps an engine that keeps caches, `RecomputeScheduler` asks one
that keeps none for tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence

import structlog

from common.engine.engine import SlotState
from common.errors import Internal, Reason, SinkServeError
from common.panics import pass_on_ends
from runtime_service.decoding.delta import Delta
from runtime_service.decoding.token_history import TokenHistory
from runtime_service.domain.turn import FinishReason
from runtime_service.forms.masks import Masks
from runtime_service.scheduling.cache_moves import CacheMoves
from runtime_service.scheduling.running_turn import Outcome, RunningTurn, Work
from runtime_service.scheduling.scheduler_events import Emit, Listener, NeedsHistory, SchedulerEvent
from runtime_service.scheduling.slots import Tenant

log = structlog.get_logger()


class TurnScheduler(ABC):
    """All turns of one engine. No threads: every method comes from one, and events are emitted in it."""

    moves: CacheMoves
    """How often caches changed their place; safe to read from any thread."""
    _running: Collection[Tenant]

    def __init__(self, clock: Callable[[], float], emit: Emit, moves: CacheMoves) -> None:
        self.moves = moves
        self.masks = Masks(clock)
        """Of replies with a form; its counts are safe to read from any thread."""
        self._clock = clock
        self._emit = emit
        self._listeners: dict[Tenant, Listener] = {}  # of every turn that waits or runs
        self._waiting: deque[Tenant] = deque()
        self._awaiting_history: set[Tenant] = set()

    # What others ask for

    @property
    @abstractmethod
    def residents(self) -> int:
        """Sessions that have a slot; safe to read from any thread."""

    @abstractmethod
    def step(self) -> bool:
        """Do what can be done now; False: there was nothing to do, nor will there be until somebody asks."""

    @property
    def due_s(self) -> float | None:
        """In how many seconds to `step` again, though nobody asks; None: not before somebody does."""
        return None

    @abstractmethod
    def export_cache(self, tenant: Tenant) -> SlotState | None:
        """A copy of the cache of `tenant`, which runs no turn; None if there is none."""

    def submit(self, tenant: Tenant, work: Work, listener: Listener) -> None:
        """Run a turn of `tenant` as soon as a slot is free; it must not have one that runs."""
        assert tenant.run is None, tenant
        tenant.run = RunningTurn(work, tenant.history)
        self._listeners[tenant] = listener
        self._waiting.append(tenant)

    def cancel_turn(self, tenant: Tenant, turn_id: str, *, discard: bool) -> None:
        """End the turn before the next step; one that has ended stays as it is."""
        run = tenant.run
        if run is None or run.work.turn_id != turn_id:
            return
        if discard:
            fed = tenant.history.fed
            self._take_back(tenant, run.start)
            self._end(tenant, run.discard(self._clock(), fed))
        else:
            self._tell_delta(tenant, run.flush())
            self._end(tenant, run.cancel(self._clock()))

    def pause(self, tenant: Tenant, *, paused: bool) -> None:
        """Do nothing more for `tenant`, or go on; meanwhile its turn has no claim to a slot."""
        tenant.paused = paused
        if paused and self._is_running(tenant):
            tenant.suspended = True
            tenant.pauses += 1
            self._suspend(tenant)
        elif not paused and tenant.suspended:
            self._resume(tenant)

    def refill(
        self,
        tenant: Tenant,
        sinks: Sequence[int],
        start: int,
        recent: Sequence[int],
        state: SlotState | None = None,
    ) -> None:
        """Answer `NeedsHistory`: the first tokens of the history, those from `start` on, and a cache if one is kept."""
        if tenant in self._awaiting_history:
            self._awaiting_history.discard(tenant)
            tenant.history.refill(sinks, start, recent)
            self._restore(tenant, state)

    def fail_turn(self, tenant: Tenant, error: SinkServeError) -> None:
        """End the turn of `tenant` with `error`, as if it had not been. Its tokens come back from the database."""
        if (run := tenant.run) is not None:
            self._lose_cache(tenant)
            tenant.history = TokenHistory.stored(tenant.history.window, run.start)
            self._end(tenant, run.fail(error, self._clock()))

    def fail_all_turns(self, error: SinkServeError) -> None:
        """End every turn with `error`."""
        for tenant in list(self._listeners):
            self.fail_turn(tenant, error)

    def release_tenant(self, tenant: Tenant, *, keep: bool) -> SlotState | None:
        """Forget `tenant`, with the turn that it runs, and free what it holds; returns its cache if it is to `keep`."""
        self.cancel_turn(tenant, tenant.run.work.turn_id if tenant.run else "", discard=True)
        state = self.export_cache(tenant) if keep else None
        self._lose_cache(tenant)
        return state

    # What differs

    @abstractmethod
    def _take_back(self, tenant: Tenant, start: int) -> None:
        """Make the cache hold the tokens before `start` only, or lose it."""

    @abstractmethod
    def _lose_cache(self, tenant: Tenant) -> None:
        """Drop the cache of `tenant`, and free its slot."""

    @abstractmethod
    def _restore(self, tenant: Tenant, state: SlotState | None) -> None:
        """Go on with the history that came, and the cache if one is kept."""

    @abstractmethod
    def _stop_running(self, tenant: Tenant) -> None:
        """Do no more for the turn of `tenant`, if it runs."""

    @abstractmethod
    def _is_running(self, tenant: Tenant) -> bool:
        """Whether the turn of `tenant` has begun and was not suspended since."""

    @abstractmethod
    def _suspend(self, tenant: Tenant) -> None:
        """Let others have what the running turn of `tenant` holds, as soon as they need it."""

    @abstractmethod
    def _resume(self, tenant: Tenant) -> None:
        """Go on with the suspended turn of `tenant` when it has a slot."""

    # What both do with a turn

    def _running_by_principal(self) -> Counter[str]:
        return Counter(tenant.principal for tenant in self._running)

    def _next_waiting(self) -> Iterator[Tenant]:
        """Those who could start, in their order: the principal that runs fewest turns first, then who came first.

        Tricklers come last. Asked anew after each, since it may have started.
        """
        waiting = [each for each in self._waiting if not (each in self._awaiting_history or each.paused)]
        while waiting:
            running = self._running_by_principal()
            tenant = min(waiting, key=lambda each: (each.yields, running[each.principal]))
            waiting.remove(tenant)
            yield tenant

    def _ask_history(self, tenant: Tenant, tokens: int) -> None:
        self._awaiting_history.add(tenant)
        self._tell(tenant, NeedsHistory(tokens))

    def _begin(self, tenant: Tenant) -> bool:
        """Put the prompt behind the history; a turn for which there is no room ends."""
        run = tenant.running
        if run.begin(self._clock()):
            return True
        self._end(tenant, run.finish(FinishReason.CONTEXT_FULL, self._clock()))
        return False

    def _accepted(self, tenant: Tenant, delta: Delta | None, reason: FinishReason | None, now: float) -> None:
        """Tell what was accepted, and end the turn if there is a `reason`."""
        self._tell_delta(tenant, delta)
        if reason is not None:
            self._tell_delta(tenant, tenant.running.flush())
            self._end(tenant, tenant.running.finish(reason, now))

    def _end(self, tenant: Tenant, outcome: Outcome) -> None:
        if tenant in self._waiting:
            self._waiting.remove(tenant)
        self._awaiting_history.discard(tenant)
        self._stop_running(tenant)
        if tenant.run is not None and tenant.run.late is not None:
            tenant.run.late.give_up()
        tenant.history.trim()
        tenant.run, tenant.suspended, tenant.pauses = None, False, 0
        self._emit(self._listeners.pop(tenant), outcome)

    def _guarded(self, tenants: Sequence[Tenant], act: Callable[[], None]) -> None:
        """Whatever fails in `act` ends the turns of `tenants`, and nothing else."""
        try:
            act()
        except BaseException as error:
            pass_on_ends(error)
            turns = [tenant.run.work.turn_id for tenant in tenants if tenant.run]
            log.exception("engine.step_failed", sessions=[tenant.name for tenant in tenants], turns=turns)
            for tenant in tenants:
                self.fail_turn(tenant, Internal(Reason.INTERNAL, f"the engine failed: {type(error).__name__}"))

    def _tell_delta(self, tenant: Tenant, delta: Delta | None) -> None:
        if delta is not None:
            self._tell(tenant, delta)

    def _tell(self, tenant: Tenant, event: SchedulerEvent) -> None:
        self._emit(self._listeners[tenant], event)
