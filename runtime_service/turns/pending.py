"""A turn that was accepted and has not ended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from runtime_service.domain.turn import Turn
from runtime_service.scheduling.running_turn import Outcome, Work
from runtime_service.turns.events import Event


@dataclass(eq=False)
class PendingTurn:
    """`work` is what the scheduler gets of it. `events` are all so far; `discard` is None until it is cancelled.

    `outcome` is there once the scheduler has it.
    """

    turn: Turn
    work: Work
    discard: bool | None = None
    started_sequence: int = 0
    events: list[Event] = field(default_factory=list)
    outcome: asyncio.Future[Outcome] | None = None

    @property
    def turn_id(self) -> str:
        """The client's id of it."""
        return self.turn.turn_id

    @property
    def has_slot(self) -> bool:
        """Whether it has, or had, a slot."""
        return self.started_sequence > 0
