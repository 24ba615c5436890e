"""What runs the turns of one engine, as its thread and the sessions see it: turns in, events out.

Two do it: `Scheduler` steps an engine that keeps caches, `RecomputeScheduler` asks one that keeps none for tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from common.engine.engine import SlotState
from common.errors import SinkServeError
from runtime_service.decoding.reply import Delta
from runtime_service.scheduling.cache_moves import CacheMoves
from runtime_service.scheduling.running_turn import Outcome, Work
from runtime_service.scheduling.slots import Tenant


@dataclass(frozen=True)
class Began:
    """The turn has a slot; its first step comes."""


@dataclass(frozen=True)
class Wrote:
    """A piece of the reply."""

    delta: Delta


@dataclass(frozen=True)
class NeedsHistory:
    """What the engine computes from has to come from the last `tokens` of the history: answer with `refill`."""

    tokens: int


@dataclass(frozen=True)
class Ended:
    """The turn ended; always the last event."""

    outcome: Outcome


RunEvent = Began | Wrote | NeedsHistory | Ended
Listener = Callable[[RunEvent], None]
Emit = Callable[[Listener, RunEvent], None]


class TurnScheduler(Protocol):
    """All turns of one engine. No threads: every method comes from one, and events are emitted in it."""

    @property
    def residents(self) -> int:
        """Sessions that have a slot; safe to read from any thread."""
        ...

    @property
    def moves(self) -> CacheMoves:
        """How often caches changed their place; safe to read from any thread."""
        ...

    def submit(self, tenant: Tenant, work: Work, listener: Listener) -> None:
        """Run a turn of `tenant` as soon as a slot is free; it must not have one that runs."""
        ...

    def cancel(self, tenant: Tenant, turn_id: str, *, discard: bool) -> None:
        """End the turn before the next step; one that has ended stays as it is."""
        ...

    def pause(self, tenant: Tenant, *, paused: bool) -> None:
        """Tell nothing more of `tenant`, or go on."""
        ...

    def refill(
        self,
        tenant: Tenant,
        sinks: Sequence[int],
        start: int,
        recent: Sequence[int],
        state: SlotState | None = None,
    ) -> None:
        """Answer `NeedsHistory`: the first tokens of the history, those from `start` on, and a cache if one is kept."""
        ...

    def export(self, tenant: Tenant) -> SlotState | None:
        """A copy of the cache of `tenant`, which runs no turn; None if there is none."""
        ...

    def fail(self, tenant: Tenant, error: SinkServeError) -> None:
        """End the turn of `tenant` with `error`, as if it had not been."""
        ...

    def fail_all(self, error: SinkServeError) -> None:
        """End every turn with `error`."""
        ...

    def leave(self, tenant: Tenant, *, keep: bool) -> SlotState | None:
        """Forget `tenant`, with the turn that it runs, and free what it holds; returns its cache if it is to `keep`."""
        ...

    def step(self) -> bool:
        """Do what can be done now; False: there was nothing to do, nor will there be until somebody asks."""
        ...
