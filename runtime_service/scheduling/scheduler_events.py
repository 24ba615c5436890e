"""What a scheduler tells about a turn. The reply itself comes as `Delta`s, and the `Outcome` is always last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runtime_service.decoding.delta import Delta
from runtime_service.scheduling.running_turn import Outcome


@dataclass(frozen=True)
class TurnAdmitted:
    """The turn has a slot; its first step comes."""


@dataclass(frozen=True)
class NeedsHistory:
    """What the engine computes from has to come from the last `tokens` of the history: answer with `refill`."""

    tokens: int


SchedulerEvent = TurnAdmitted | Delta | NeedsHistory | Outcome
Listener = Callable[[SchedulerEvent], None]
Emit = Callable[[Listener, SchedulerEvent], None]
