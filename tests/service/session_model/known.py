"""What the model of sessions knows of its world, and what it takes from it: streams, sessions, requests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from runtime_service.domain.options import RequestedOptions
from runtime_service.domain.turn import TurnInput, TurnRequest
from tests.service.session_model.line import Line
from tests.service.session_model.replica import MAX_SESSIONS, Replica
from tests.service.session_model.sessions import ModelSession
from tests.service.session_model.world import World


@dataclass
class Known:
    """The world and the model of every session that exists in it. Whatever is drawn names something."""

    world: World
    model: dict[str, ModelSession] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def replica(self, there: bool) -> Replica:
        return self.world.there if there else self.world.here

    def some(self, at: int) -> ModelSession:
        return list(self.model.values())[at % len(self.model)]

    def lines(self) -> list[Line]:
        """Streams on which a client may speak."""
        return [line for line in self.world.open_lines if not line.half_closed] if hasattr(self, "world") else []

    def line(self, at: int) -> Line:
        return self.lines()[at % len(self.lines())]

    def followers(self, session_id: str, replica: Replica | None = None) -> list[Line]:
        """Streams whose server has the session and knows that; those that hear of it when `replica` takes that."""
        lines = [line for line in self.world.open_lines if line.session_id == session_id]
        hearing = [line for line in lines if replica in (None, line.replica) or not line.replica.paused]
        return [line for line in hearing if not self.world.is_cut_off(line)]

    def is_full(self, replica: Replica) -> bool:
        live = replica.handle.sessions.live
        return len(live) >= MAX_SESSIONS and all(each.busy for each in live)

    def is_kept(self, session_id: str, turn_id: str) -> bool:
        kept = self.world.kept(session_id)
        return kept is not None and any(turn.turn_id == turn_id for turn, _ in kept[1])

    def epoch(self, session: ModelSession) -> int:
        kept = self.world.kept(session.session_id)
        assert kept is not None
        return kept[0].epoch

    def lost(self, line: Line) -> None:
        """A stream is lost: its turns are cancelled where the session does not say otherwise."""
        session = self.model.get(line.session_id)
        stale = self.world.is_cut_off(line)
        if session is not None and not session.continues and not stale:
            session.cancel_all()

    def cancelled(self, replica: Replica, session_id: str, which: int, *, discard: bool) -> str:
        """The id of a turn that is about to be cancelled."""
        session = self.model.get(session_id)
        known = session.turns[-3:] if session is not None else []
        if not known:
            return "none"
        turn = known[which % len(known)]
        if self.world.live(replica, session_id) is None or not self.world.is_stale(replica, session_id):
            turn.cancels.add(discard)  # a server that has not got the session asks the one that has
        return turn.turn_id

    def turn_id(self, session: ModelSession, which: int) -> str:
        """A turn of a session, or none, or one that was dropped."""
        known = [turn.turn_id for turn in (*session.gone[-1:], *session.turns)][-5:]
        return known[which] if which < len(known) else "none"

    def request(self, kind: str, most: int) -> TurnRequest:
        number = next(self.numbers)
        options = RequestedOptions(max_new_tokens=most, ignore_eos=True)
        given = TurnInput(text=f"n{number % 50}")
        if kind == "tokens":
            given = TurnInput(token_ids=tuple(5 + (number * 37 + place) % 400 for place in range(1 + number % 12)))
        return TurnRequest(f"t{number}", given, options, no_reply=kind == "no_reply")
