"""Runs turns over an engine that keeps no cache: what a session sees is sent as a prompt, again and again.

How much that is, `sliding_prompt` says. No threads and no I/O: `EngineThread` drives it, and tests drive it step by
step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from queue import SimpleQueue

import structlog

from common.engine.engine import SlotState
from common.errors import Internal, Reason, SinkServeError
from runtime_service.decoding.reply import Delta
from runtime_service.decoding.sampling import Sampled, uniform
from runtime_service.decoding.token_history import TokenHistory
from runtime_service.domain.options import GenerationOptions
from runtime_service.domain.turn import FinishReason
from runtime_service.recompute.sliding_prompt import sliding_prompt
from runtime_service.recompute.token_generator import Broken, Exhausted, Generation, Heard, LoadedGenerator, Token
from runtime_service.scheduling.cache_moves import CacheMoves
from runtime_service.scheduling.running_turn import Outcome, RunningTurn, Work
from runtime_service.scheduling.slots import Tenant
from runtime_service.scheduling.turn_scheduler import Began, Emit, Ended, Listener, NeedsHistory, RunEvent, Wrote

SEED_BITS = 53  # what `uniform` gives

log = structlog.get_logger()


@dataclass(eq=False)
class Stream:
    """One generation of a tenant's turn: what it told and nobody took yet, and whether it gave a token."""

    tenant: Tenant
    heard: deque[Heard] = field(default_factory=deque)
    generation: Generation | None = None
    fruitful: bool = False


class RecomputeScheduler:
    """All turns of one generator. Methods come from one thread; `emit` is called in it, `wake` in any.

    Tenants are told apart by their tokens only: nobody has a slot between turns, and `Tenant.residence` is STORED.
    """

    def __init__(
        self, loaded: LoadedGenerator, clock: Callable[[], float], emit: Emit, wake: Callable[[], None]
    ) -> None:
        self._loaded = loaded
        self._clock = clock
        self._emit = emit
        self._wake = wake
        self._inbox: SimpleQueue[tuple[Stream, Heard]] = SimpleQueue()
        self._listeners: dict[Tenant, Listener] = {}
        self._waiting: deque[Tenant] = deque()
        self._running: dict[Tenant, Stream] = {}
        self._starving: set[Tenant] = set()
        self.moves = CacheMoves()

    # What others ask for

    @property
    def residents(self) -> int:
        """Sessions whose turn runs."""
        return len(self._running)

    def submit(self, tenant: Tenant, work: Work, listener: Listener) -> None:
        """Run a turn of `tenant` as soon as fewer than `slots` run; it must not have one that runs."""
        assert tenant.run is None, tenant
        tenant.run = RunningTurn(work, tenant.context)
        self._listeners[tenant] = listener
        self._waiting.append(tenant)

    def cancel(self, tenant: Tenant, turn_id: str, *, discard: bool) -> None:
        """End the turn now; one that has ended stays as it is."""
        run, context = tenant.run, tenant.context
        if run is None or run.work.turn_id != turn_id:
            return
        if discard:
            fed = context.fed
            if fed > run.start:
                context.take_back(run.start)
            self._end(tenant, run.discard(self._clock(), fed))
        else:
            self._wrote(tenant, run.flush())
            self._end(tenant, run.cancel(self._clock()))

    def pause(self, tenant: Tenant, *, paused: bool) -> None:
        """Keep what is heard for `tenant` to yourself, or go on. No more is kept than one prompt's reply."""
        tenant.paused = paused

    def refill(
        self,
        tenant: Tenant,
        sinks: Sequence[int],
        start: int,
        recent: Sequence[int],
        state: SlotState | None = None,
    ) -> None:
        """Answer `NeedsHistory`; no cache is ever kept."""
        assert state is None, tenant
        if tenant in self._starving:
            self._starving.discard(tenant)
            tenant.context.refill(sinks, start, recent)

    def export(self, tenant: Tenant) -> SlotState | None:  # noqa: ARG002 - there is nothing to export
        """Nothing."""
        return None

    def fail(self, tenant: Tenant, error: SinkServeError) -> None:
        """End the turn of `tenant` with `error`, as if it had not been. Its tokens come back from the database."""
        if (run := tenant.run) is not None:
            tenant.context = TokenHistory.stored(tenant.context.window, run.start)
            self._end(tenant, run.fail(error, self._clock()))

    def fail_all(self, error: SinkServeError) -> None:
        """End every turn with `error`."""
        for tenant in (*self._waiting, *self._running):
            self.fail(tenant, error)

    def leave(self, tenant: Tenant, *, keep: bool) -> SlotState | None:  # noqa: ARG002 - there is nothing to keep
        """Forget `tenant`."""
        self.cancel(tenant, tenant.run.work.turn_id if tenant.run else "", discard=True)
        return None

    # A step: start what can start, take what was heard

    def step(self) -> bool:
        """Start turns and take tokens; False: there was nothing to do, nor will there be until `wake`."""
        started = self._admit()
        return self._listen() or started

    def _admit(self) -> bool:
        waiting = len(self._waiting)
        for tenant in list(self._waiting):
            if tenant in self._starving or self._lacks_slot(tenant):
                continue
            if self._has_tokens(tenant):
                self._waiting.remove(tenant)
                self._guarded(tenant, partial(self._start, tenant))
        return len(self._waiting) < waiting

    def _lacks_slot(self, tenant: Tenant) -> bool:
        """Whether `tenant` has to wait; input without a reply needs no slot."""
        return _run(tenant).work.reply is not None and len(self._running) >= self._loaded.slots

    def _has_tokens(self, tenant: Tenant) -> bool:
        """Whether the whole window is at hand; asks for it otherwise."""
        context = tenant.context
        needed = min(context.length, context.window.window)
        if context.kept(context.length) >= needed:
            return True
        self._starving.add(tenant)
        self._tell(tenant, NeedsHistory(needed))
        return False

    def _start(self, tenant: Tenant) -> None:
        run = _run(tenant)
        if not run.begin(self._clock()):
            self._end(tenant, run.finish(FinishReason.CONTEXT_FULL, self._clock()))
            return
        self._tell(tenant, Began())
        if run.work.reply is None:
            self._end(tenant, run.finish(FinishReason.INPUT_ONLY, self._clock()))
        else:
            self._generate(tenant)

    def _generate(self, tenant: Tenant) -> None:
        """Go on with the reply from a new prompt."""
        run, context = _run(tenant), tenant.context
        tokens, most = sliding_prompt(context, self._loaded.stride_tokens, run.left)
        context.settle()
        stream = self._running[tenant] = Stream(tenant)
        options = seeded(run.work.options, context.length)
        stream.generation = self._loaded.generator.start(tokens, options, most, partial(self._hear, stream))

    def _hear(self, stream: Stream, heard: Heard) -> None:
        """What the generator tells, in any thread."""
        self._inbox.put((stream, heard))
        self._wake()

    def _listen(self) -> bool:
        while not self._inbox.empty():
            stream, heard = self._inbox.get()
            stream.heard.append(heard)
        ready = [stream for tenant, stream in self._running.items() if stream.heard and not tenant.paused]
        for stream in ready:
            self._guarded(stream.tenant, partial(self._take, stream))
        return bool(ready)

    def _take(self, stream: Stream) -> None:
        """Take what was heard of a generation, as long as it is its tenant's."""
        while stream.heard and self._running.get(stream.tenant) is stream:
            match stream.heard.popleft():
                case Token(sampled):
                    self._accept(stream, sampled)
                case Exhausted() if stream.fruitful:
                    self._generate(stream.tenant)
                case Exhausted():
                    self.fail(stream.tenant, Internal(Reason.INTERNAL, "the engine gave no token"))
                case Broken(error):
                    self.fail(stream.tenant, error)

    def _accept(self, stream: Stream, sampled: Sampled) -> None:
        tenant, now = stream.tenant, self._clock()
        run = _run(tenant)
        stream.fruitful = True
        delta, reason = run.accept_sampled(sampled, now)
        self._wrote(tenant, delta)
        if reason is not None:
            self._wrote(tenant, run.flush())
            self._end(tenant, run.finish(reason, now))

    # How turns end

    def _end(self, tenant: Tenant, outcome: Outcome) -> None:
        if tenant in self._waiting:
            self._waiting.remove(tenant)
        stream = self._running.pop(tenant, None)
        if stream is not None and stream.generation is not None:
            stream.generation.abort()
        self._starving.discard(tenant)
        tenant.context.settle()
        tenant.context.trim()
        tenant.run, tenant.paused = None, False
        self._emit(self._listeners.pop(tenant), Ended(outcome))

    def _guarded(self, tenant: Tenant, act: Callable[[], None]) -> None:
        """Whatever fails in `act` ends the turn of `tenant`, and nothing else."""
        try:
            act()
        except Exception as error:
            turn_id = tenant.run.work.turn_id if tenant.run else None
            log.exception("engine.generation_failed", session=tenant.name, turn=turn_id)
            self.fail(tenant, Internal(Reason.INTERNAL, f"the engine failed: {type(error).__name__}"))

    def _wrote(self, tenant: Tenant, delta: Delta | None) -> None:
        if delta is not None:
            self._tell(tenant, Wrote(delta))

    def _tell(self, tenant: Tenant, event: RunEvent) -> None:
        self._emit(self._listeners[tenant], event)


def seeded(options: GenerationOptions, position: int) -> GenerationOptions:
    """Options for a generation that begins at `position`: not the random numbers of the one before it again."""
    return replace(options, seed=int(uniform(options.seed, position) * 2**SEED_BITS))


def _run(tenant: Tenant) -> RunningTurn:
    assert tenant.run is not None, tenant
    return tenant.run
