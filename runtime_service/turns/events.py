"""What a stream tells its client, and the recent events of a session, which can be told again."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from common.errors import OutOfRange, Reason, SinkServeError
from runtime_service.decoding.delta import Delta
from runtime_service.domain.options import GenerationOptions
from runtime_service.domain.recall import PastTurn
from runtime_service.domain.session import Session
from runtime_service.domain.turn import Result
from runtime_service.scheduling.slots import Residence

EPOCH_BITS = 32
_EVENT_BYTES = 200


@dataclass(frozen=True)
class Opened:
    """The stream is open."""

    session: Session
    residence: Residence
    resumed: bool
    events_replayed: bool
    kv_recomputed: bool
    generation: GenerationOptions


@dataclass(frozen=True)
class TurnStarted:
    """A turn started."""

    prompt_tokens: int
    attempt: int
    options: GenerationOptions
    recalled: tuple[PastTurn, ...] = ()


@dataclass(frozen=True)
class TurnFinished:
    """A turn ended; of its `result` the reply is not here: it was told in pieces."""

    result: Result

    @classmethod
    def of(cls, result: Result) -> Self:
        """Tell of a result."""
        return cls(replace(result, text="", reasoning="", token_ids=()))


@dataclass(frozen=True)
class TurnRejected:
    """A turn was not accepted."""

    error: SinkServeError


@dataclass(frozen=True)
class GoAway:
    """The server is stopping, or the stream is old."""

    grace_s: float


@dataclass(frozen=True)
class Heartbeat:
    """Nothing happened."""


TurnEvent = TurnStarted | Delta | TurnFinished
Body = TurnEvent | Opened | TurnRejected | GoAway | Heartbeat


@dataclass(frozen=True)
class Event:
    """`sequence` is 0 for what is of the stream and not of the session; `turn_id` is empty for what is of no turn."""

    sequence: int
    body: Body
    turn_id: str = ""

    @cached_property
    def size_bytes(self) -> int:
        """About what it takes in memory."""
        return _EVENT_BYTES + (self.body.size_bytes if isinstance(self.body, Delta) else 0)


class EventLog:
    """Recent events of one session, oldest first; sequences of an epoch are above all those of earlier ones."""

    def __init__(self, epoch: int, told: int, most: int, most_bytes: int) -> None:
        """`told` is the last event of the last turn that ended in an earlier epoch."""
        self._most = most
        self._most_bytes = most_bytes
        self._events: deque[Event] = deque()
        self._size_bytes = 0
        self.last = epoch << EPOCH_BITS
        self._gone = told

    def append(self, turn_id: str, body: TurnEvent) -> Event:
        """Number an event and keep it, as long as there is room."""
        event = Event(self.last + 1, body, turn_id)
        self.last = event.sequence
        self._events.append(event)
        self._size_bytes += event.size_bytes
        while len(self._events) > self._most or self._size_bytes > self._most_bytes:
            dropped = self._events.popleft()
            self._size_bytes -= dropped.size_bytes
            self._gone = dropped.sequence
        return event

    def since(self, sequence: int) -> list[Event]:
        """Events after `sequence`; raises OutOfRange (EVENTS_EXPIRED) if some are not kept any more."""
        if sequence < self._gone:
            raise OutOfRange(
                Reason.EVENTS_EXPIRED,
                f"open.after_sequence is {sequence}, and events up to {self._gone} are no longer kept; "
                "open without it and send the last turn again under its id",
                field="open.after_sequence",
                after_sequence=sequence,
                oldest=self._gone,
            )
        return [event for event in self._events if event.sequence > sequence]

    def of_turn(self, turn_id: str) -> list[Event]:
        """What is kept of a turn; whole only if it begins with `TurnStarted`."""
        return [event for event in self._events if event.turn_id == turn_id]
