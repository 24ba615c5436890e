"""The requests of a client's session and the events it has received, kept across streams. Pure: no I/O, no clock.

The stream of a conversation may be lost at any event. So there is no send queue: the ledger computes which requests
were not yet sent on the present stream (a `Link`); on a new stream, none were. Turns that have not ended are sent again
with their ids; the same id never runs twice.

The server repeats events in two ways: those after a sequence number that the client names, and all events of a turn
that is sent again, from its `started` on. So each turn has its own cursor, and a `started` moves it back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sinkserve.client.errors import SinkServeError, from_status
from sinkserve.client.turn import Turn
from sinkserve.runtime.v1 import conversation_service_pb2 as pb

TURNS_IN_FLIGHT = 8  # as many as a server lets wait; the others wait here


@dataclass
class Link:
    """One stream: what was sent on it, and whether its server is draining."""

    open_sent: bool = False
    opened: bool = False
    leaving: bool = False
    close_sent: bool = False
    turns_sent: set[str] = field(default_factory=set)
    cancels_sent: dict[str, pb.CancelTurn] = field(default_factory=dict)
    progress: bool = False


@dataclass
class _Open:
    """A turn that has not ended."""

    turn: Turn
    started: bool = False  # its `started` came, and every event since
    missed: bool = False  # its `started` may have been lost: ignore its events until they are repeated from the start
    cursor: int = 0  # sequence of its last event since its `started`


class Ledger:
    """Life: made with what to open; turns are added and end; `close` asks for the end; `fail` is the other end."""

    def __init__(self, target: pb.NewSession | str) -> None:
        self._target = target
        self._turns: dict[str, _Open] = {}  # in order
        self._close: pb.Close | None = None
        self._last_sequence: int | None = None
        self.opened: pb.Opened | None = None
        self.error: SinkServeError | None = None

    @property
    def busy(self) -> bool:
        """Whether a stream is needed: something has not been opened, answered or closed."""
        return self.opened is None or bool(self._turns) or self._close is not None

    @property
    def deleting(self) -> bool:
        """Whether the session is to be deleted."""
        return self._close is not None and self._close.delete_session

    @property
    def closing(self) -> bool:
        """Whether no more turns are taken."""
        return self._close is not None

    @property
    def settled(self) -> bool:
        """Whether closing was requested and nothing is left to send."""
        return self._close is not None and not self._close.delete_session and not self._turns

    @property
    def unfinished(self) -> tuple[Turn, ...]:
        """Turns that have not ended, in order."""
        return tuple(item.turn for item in self._turns.values())

    def add(self, turn: Turn) -> None:
        """Ask for a turn; raises ValueError while a turn of the same id runs or waits."""
        if turn.id in self._turns:
            raise ValueError(f"turn {turn.id!r} runs or waits already")
        self._turns[turn.id] = _Open(turn)

    def close(self, *, delete: bool) -> None:
        """Ask for the end after the turns so far."""
        self._close = pb.Close(delete_session=delete)

    def forget_sequence(self) -> None:
        """Ask for no missed events any more: turns are repeated from their start."""
        self._last_sequence = None

    def fail(self, error: SinkServeError) -> None:
        """End with an error: no more events, and no more turns."""
        self.error = error
        self.abandon(error)

    def abandon(self, error: SinkServeError) -> None:
        """End the turns so far with an error."""
        for turn in self.unfinished:
            turn.fail(error)
        self._turns.clear()

    def next_request(self, link: Link) -> pb.ConverseRequest | None:
        """What to send next on `link`; None: nothing now. What is returned counts as sent."""
        if not link.open_sent:
            link.open_sent = True
            return pb.ConverseRequest(open=self._open())
        if not link.opened or link.close_sent:
            return None
        return self._next_of_turns(link) or self._next_close(link)

    def may_leave(self, link: Link) -> bool:
        """Whether the server of `link` is draining and no turn of this client runs there."""
        return link.leaving and not any(item.started for key, item in self._turns.items() if key in link.turns_sent)

    def receive(self, response: pb.ConverseResponse, link: Link) -> None:
        """Take an event from `link`."""
        if response.sequence:
            self._last_sequence = max(self._last_sequence or 0, response.sequence)
            link.progress = True
        match response.WhichOneof("event"):
            case "opened":
                self.opened, link.opened = response.opened, True
            case "go_away":
                link.leaving = True
            case "rejected":
                self._receive_rejected(response.rejected, link)
            case "started":
                self._receive_started(response.started, response.sequence)
            case "delta":
                self._receive_delta(response.delta, response.sequence)
            case "finished":
                self._receive_finished(response.finished, link)

    def _open(self) -> pb.Open:
        if self.opened is not None:
            return self._reopen(self.opened.session.name)
        if isinstance(self._target, str):
            return pb.Open(session=self._target)
        return pb.Open(new_session=self._target)

    def _reopen(self, session: str) -> pb.Open:
        """Ask for missed events after a sequence; if it is not known, for none: turns are repeated from their start."""
        if self._last_sequence is not None and not any(item.missed for item in self._turns.values()):
            # a turn that was coming again from its start may have got less far than what was heard before
            reached = [item.cursor for item in self._turns.values() if item.started]
            return pb.Open(session=session, after_sequence=min([self._last_sequence, *reached]))
        for item in self._turns.values():
            item.started, item.missed = False, True
        return pb.Open(session=session)

    def _next_of_turns(self, link: Link) -> pb.ConverseRequest | None:
        for item in list(self._turns.values())[:TURNS_IN_FLIGHT]:
            turn = item.turn
            if turn.id not in link.turns_sent:
                if link.leaving:
                    return None
                link.turns_sent.add(turn.id)
                return pb.ConverseRequest(turn=turn.request)
            cancel = turn.cancel_request
            if cancel is not None and cancel != link.cancels_sent.get(turn.id):
                link.cancels_sent[turn.id] = cancel
                return pb.ConverseRequest(cancel=cancel)
        return None

    def _next_close(self, link: Link) -> pb.ConverseRequest | None:
        if self._close is None or link.leaving or not link.turns_sent.issuperset(self._turns):
            return None
        link.close_sent = True
        return pb.ConverseRequest(close=self._close)

    def _receive_rejected(self, rejected: pb.TurnRejected, link: Link) -> None:
        error = from_status(rejected.error)
        if error.retry == "reopen":  # the server is draining, or its engine leaves: the turn is sent again
            link.leaving = True
            return
        turn = self._remove(rejected.turn_id, link)
        if turn is not None:
            turn.fail(error)

    def _receive_started(self, started: pb.TurnStarted, sequence: int) -> None:
        item = self._turns.get(started.turn_id)
        if item is not None:
            item.started, item.missed, item.cursor = True, False, sequence
            item.turn.receive_started(started)

    def _receive_delta(self, delta: pb.Delta, sequence: int) -> None:
        item = self._turns.get(delta.turn_id)
        if item is not None and item.started and sequence > item.cursor:
            item.cursor = sequence
            item.turn.receive_delta(delta)

    def _receive_finished(self, finished: pb.TurnFinished, link: Link) -> None:
        item = self._turns.get(finished.turn_id)
        if item is None or (item.missed and finished.usage.generated_tokens > len(item.turn.token_ids)):
            return
        self._remove(finished.turn_id, link)
        item.turn.receive_finished(finished)

    def _remove(self, turn_id: str, link: Link) -> Turn | None:
        """The turn, which has ended; nothing of it stays, since a conversation never ends."""
        link.turns_sent.discard(turn_id)
        link.cancels_sent.pop(turn_id, None)
        item = self._turns.pop(turn_id, None)
        return None if item is None else item.turn
