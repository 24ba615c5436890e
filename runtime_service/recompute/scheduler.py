"""Runs turns over an engine that keeps no cache: what a session sees is sent as a prompt, again and again.

How much that is, `sliding_prompt` says. No threads and no I/O: `EngineThread` drives it, and tests drive it step by
step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from queue import SimpleQueue

from common.engine.engine import SlotState
from common.errors import Internal, Reason
from runtime_service.decoding.sampling import uniform
from runtime_service.domain.options import GenerationOptions
from runtime_service.domain.turn import FinishReason
from runtime_service.recompute.sliding_prompt import sliding_prompt
from runtime_service.recompute.token_generator import (
    Completed,
    Failed,
    Generation,
    GenerationEvent,
    LoadedGenerator,
    Token,
)
from runtime_service.scheduling.cache_moves import CacheMoves
from runtime_service.scheduling.scheduler_events import Emit, TurnAdmitted
from runtime_service.scheduling.slots import Tenant
from runtime_service.scheduling.turn_scheduler import TurnScheduler

SEED_BITS = 53  # what `uniform` gives


@dataclass(eq=False)
class TurnGeneration:
    """One generation of a tenant's turn: its events that were not taken yet, and whether it gave a token.

    `is_over`: the generator gives no more for it, and others may have its slot.
    """

    tenant: Tenant
    events: deque[GenerationEvent] = field(default_factory=deque)
    generation: Generation | None = None
    gave_token: bool = False
    is_over: bool = False


class RecomputeScheduler(TurnScheduler):
    """All turns of one generator. Methods come from one thread; `emit` is called in it, `wake` in any.

    Tenants are told apart by their tokens only: nobody has a slot between turns, and `Tenant.residence` is STORED.
    Of a tenant that pauses no more is kept than one prompt's reply; when that is whole, others have its slot.
    """

    def __init__(
        self, loaded: LoadedGenerator, clock: Callable[[], float], emit: Emit, wake: Callable[[], None]
    ) -> None:
        super().__init__(clock, emit, CacheMoves())
        self._loaded = loaded
        self._wake = wake
        self._inbox: SimpleQueue[tuple[TurnGeneration, GenerationEvent]] = SimpleQueue()
        self._running: dict[Tenant, TurnGeneration] = {}

    @property
    def residents(self) -> int:
        """Sessions for which something is generated."""
        return sum(not current.is_over for current in list(self._running.values()))

    def export_cache(self, tenant: Tenant) -> SlotState | None:  # noqa: ARG002 - there is nothing to export
        """Nothing."""
        return None

    # A step: start what can start, take what was generated

    def step(self) -> bool:
        """Start turns and take tokens; False: there was nothing to do, nor will there be until `wake`."""
        started = self._admit()
        return self._take_ready() or started

    def _admit(self) -> bool:
        waiting = len(self._waiting)
        for tenant in self._next_waiting():
            if not self._lacks_slot(tenant) and self._has_tokens(tenant):
                self._waiting.remove(tenant)
                self._guarded([tenant], partial(self._start, tenant))
        return len(self._waiting) < waiting

    def _lacks_slot(self, tenant: Tenant) -> bool:
        """Whether `tenant` has to wait; input without a reply needs no slot."""
        return tenant.running.work.reply is not None and self.residents >= self._loaded.slots

    def _has_tokens(self, tenant: Tenant) -> bool:
        """Whether the whole window is at hand; asks for it otherwise."""
        history = tenant.history
        needed = min(history.length, history.window.window)
        if history.kept(history.length) >= needed:
            return True
        self._ask_history(tenant, needed)
        return False

    def _start(self, tenant: Tenant) -> None:
        if tenant.suspended:
            tenant.suspended = False
            self._generate(tenant)
            return
        if not self._begin(tenant):
            return
        self._tell(tenant, TurnAdmitted())
        if tenant.running.work.reply is None:
            self._end(tenant, tenant.running.finish(FinishReason.INPUT_ONLY, self._clock()))
        else:
            self._generate(tenant)

    def _generate(self, tenant: Tenant) -> None:
        """Go on with the reply from a new prompt."""
        run, history = tenant.running, tenant.history
        tokens, most = sliding_prompt(history, self._loaded.stride_tokens, run.left)
        run.seen_from = history.length - max(0, len(tokens) - history.window.sinks)
        history.settle()
        current = self._running[tenant] = TurnGeneration(tenant)
        options = seeded(run.work.options, history.length)
        receive = partial(self._receive, current)
        current.generation = self._loaded.generator.start(tokens, options, most, receive)

    def _receive(self, current: TurnGeneration, event: GenerationEvent) -> None:
        """What the generator tells, in any thread."""
        self._inbox.put((current, event))
        self._wake()

    def _take_ready(self) -> bool:
        while not self._inbox.empty():
            current, event = self._inbox.get()
            current.events.append(event)
            current.is_over = not isinstance(event, Token)
        ready = [current for tenant, current in self._running.items() if current.events and not tenant.paused]
        for current in ready:
            self._guarded([current.tenant], partial(self._take, current))
        return bool(ready)

    def _take(self, current: TurnGeneration) -> None:
        """Take the events of a generation, as long as it is its tenant's."""
        tenant = current.tenant
        while current.events and self._running.get(tenant) is current:
            match current.events.popleft():
                case Token(sampled):
                    current.gave_token = True
                    now = self._clock()
                    self._accepted(tenant, *tenant.running.accept_sampled(sampled, now), now)
                case Completed() if current.gave_token and self._lacks_slot(tenant):
                    self._wait_again(tenant)
                case Completed() if current.gave_token:
                    self._generate(tenant)
                case Completed():
                    self.fail_turn(tenant, Internal(Reason.INTERNAL, "the engine gave no token"))
                case Failed(error):
                    self.fail_turn(tenant, error)

    def _wait_again(self, tenant: Tenant) -> None:
        """Others got the slot while the turn was paused."""
        del self._running[tenant]
        tenant.suspended = True
        self._waiting.append(tenant)

    def _is_running(self, tenant: Tenant) -> bool:
        return tenant in self._running

    def _suspend(self, tenant: Tenant) -> None:
        """What was begun is generated to its end: another prompt would have other tokens."""

    def _resume(self, tenant: Tenant) -> None:
        if tenant in self._running:
            tenant.suspended = False

    # There is no cache

    def _take_back(self, tenant: Tenant, start: int) -> None:
        if tenant.history.fed > start:
            tenant.history.take_back(start)

    def _lose_cache(self, tenant: Tenant) -> None:
        """Nothing is there to lose."""

    def _restore(self, tenant: Tenant, state: SlotState | None) -> None:
        assert state is None, tenant

    def _stop_running(self, tenant: Tenant) -> None:
        current = self._running.pop(tenant, None)
        if current is not None and current.generation is not None:
            current.generation.abort()
        tenant.history.settle()


def seeded(options: GenerationOptions, position: int) -> GenerationOptions:
    """Options for a generation that begins at `position`: not the random numbers of the one before it again."""
    return replace(options, seed=int(uniform(options.seed, position) * 2**SEED_BITS))
