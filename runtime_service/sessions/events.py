"""What a stream tells its client, and the recent events of a session, which can be told again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from common.errors import OutOfRange, Reason, SinkServeError
from runtime_service.decoding.reply import MOST_JOINED, Delta, join
from runtime_service.domain.options import GenerationOptions
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


@dataclass(frozen=True)
class Started:
    """A turn started."""

    turn_id: str
    prompt_tokens: int
    attempt: int
    options: GenerationOptions


@dataclass(frozen=True)
class Said:
    """A piece of a reply."""

    turn_id: str
    delta: Delta


@dataclass(frozen=True)
class Finished:
    """A turn ended."""

    turn_id: str
    result: Result


@dataclass(frozen=True)
class Rejected:
    """A turn was not accepted."""

    turn_id: str
    error: SinkServeError


@dataclass(frozen=True)
class GoAway:
    """The server is stopping, or the stream is old."""

    grace_s: float


@dataclass(frozen=True)
class Heartbeat:
    """Nothing happened."""


TurnEvent = Started | Said | Finished
Body = TurnEvent | Opened | Rejected | GoAway | Heartbeat


@dataclass(frozen=True)
class Event:
    """`sequence` is 0 for what is of the stream and not of the session."""

    sequence: int
    body: Body

    @property
    def size_bytes(self) -> int:
        """About what it takes in memory."""
        if not isinstance(self.body, Said):
            return _EVENT_BYTES
        delta = self.body.delta
        tops = sum(1 + len(entry.top) for entry in delta.logprobs)
        return _EVENT_BYTES + len(delta.text) + 8 * len(delta.token_ids) + 100 * tops


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

    def append(self, body: TurnEvent) -> Event:
        """Number an event and keep it, as long as there is room."""
        event = Event(self.last + 1, body)
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
        """What is kept of a turn; whole only if it begins with `Started`."""
        return [event for event in self._events if getattr(event.body, "turn_id", None) == turn_id]


def merge(events: Iterable[Event]) -> list[Event]:
    """Join pieces of one reply that follow one another, up to a bound; the joined one has the last's sequence."""
    merged: list[Event] = []
    pieces: list[Event] = []
    turn_id, tokens = "", 0
    for event in events:
        said = event.body if isinstance(event.body, Said) else None
        more = len(said.delta.token_ids) if said is not None else 0
        if pieces and (said is None or said.turn_id != turn_id or tokens + more > MOST_JOINED):
            merged.append(_joined(turn_id, pieces))
            pieces, tokens = [], 0
        if said is None:
            merged.append(event)
            continue
        pieces.append(event)
        turn_id, tokens = said.turn_id, tokens + more
    return [*merged, _joined(turn_id, pieces)] if pieces else merged


def _joined(turn_id: str, pieces: list[Event]) -> Event:
    deltas = [piece.body.delta for piece in pieces if isinstance(piece.body, Said)]
    return Event(pieces[-1].sequence, Said(turn_id, join(deltas)))
