"""A turn that was accepted and has not ended."""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import dataclass, field
from io import StringIO

from runtime_service.decoding.delta import Delta
from runtime_service.decoding.parts.pieces import CallPiece, join_calls
from runtime_service.domain.recall import PastTurn
from runtime_service.domain.turn import TOKEN_BYTES, Turn
from runtime_service.scheduling.running_turn import Outcome, Work
from runtime_service.turns.events import Event, TurnStarted


@dataclass(eq=False)
class PendingTurn:
    """`work` is what the scheduler gets of it, and has what is `recalled` once it runs. `discard` is None until it is
    cancelled.

    Of its events it has what a repeat cannot do without: how it started, and the parts and tokens of the reply so far.
    `outcome` is there once the scheduler has it. `caller_span` and `request_id` are those of the call that brought it.
    """

    turn: Turn
    work: Work
    recalled: tuple[PastTurn, ...] = ()
    discard: bool | None = None
    started: Event | None = None
    text: StringIO = field(default_factory=StringIO)
    reasoning: StringIO = field(default_factory=StringIO)
    calls: tuple[CallPiece, ...] = ()
    token_ids: array[int] = field(default_factory=lambda: array("i"))
    outcome: asyncio.Future[Outcome] | None = None
    caller_span: str = ""
    request_id: str = ""
    size_bytes: int = field(init=False)
    """About what its input took in memory when it was accepted."""

    def __post_init__(self) -> None:
        given = self.turn.request
        self.size_bytes = given.size_bytes
        if given.input.token_ids is None:  # else they are the prompt
            self.size_bytes += TOKEN_BYTES * len(self.work.prompt)

    @property
    def turn_id(self) -> str:
        """The client's id of it."""
        return self.turn.turn_id

    @property
    def has_slot(self) -> bool:
        """Whether it has, or had, a slot."""
        return self.started is not None

    @property
    def started_sequence(self) -> int:
        """The number of the event that it started; 0 before."""
        return 0 if self.started is None else self.started.sequence

    def note(self, event: Event) -> None:
        """Remember what is needed of an event of it."""
        if isinstance(event.body, TurnStarted):
            self.started = event
        elif isinstance(event.body, Delta):
            self.text.write(event.body.text)
            self.reasoning.write(event.body.reasoning)
            if event.body.calls:
                self.calls = join_calls((*self.calls, *event.body.calls))
            self.token_ids.extend(event.body.token_ids)
