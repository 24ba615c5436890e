"""What of a session's past is read again in a turn: its pinned turns, and those that are named or found.

Chosen when the turn begins to run, since only then it is known what the model will still see. Nothing is written: a
turn that begins anew after a crash chooses anew.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import structlog

from runtime_service.decoding.text import Text
from runtime_service.domain.recall import TURN_FIELD, PastTurn, Span, most_recalled
from runtime_service.domain.session import Session
from runtime_service.domain.turn import Result, Turn, TurnRequest
from runtime_service.recall.budget import budget_of, check_named, fitting
from runtime_service.recall.copies import Copies
from runtime_service.recall.own_tokens import own_tokens, said_by_user, said_in
from runtime_service.recall.ranking import Candidate, Ranker
from runtime_service.recall.search import find
from runtime_service.storage.recall.index import RecallIndex
from runtime_service.storage.recall.past_turns import PastTurns, turn_not_found

log = structlog.get_logger()


@dataclass(frozen=True)
class Recalled:
    """Turns that are read again, the oldest first, and their tokens."""

    turns: tuple[PastTurn, ...] = ()
    tokens: tuple[int, ...] = ()


class SessionRecall:
    """Of one session while it is in memory. What blocks is called in a thread, one call at a time."""

    def __init__(self, index: RecallIndex, past: PastTurns, ranker: Ranker) -> None:
        self._index = index
        self._past = past
        self._ranker = ranker
        self._copies: Copies | None = None  # read when they are wanted

    def note(self, result: Result, tokens: int) -> None:
        """A turn has ended that added so many tokens to the history."""
        if self._copies is not None:
            self._copies.note(result, tokens)

    def check_named(self, session: Session, request: TurnRequest, prompt: int) -> None:
        """Raise NotFound (TURN_NOT_FOUND) for turns that are not there, InvalidArgument for too many. Blocks."""
        asked = request.recall.turn_ids if request.recall is not None else ()
        found = self._past.read_named(session, asked)
        missing = sorted(set(asked) - {turn.turn_id for turn, _ in found})
        if missing:
            raise turn_not_found(session, missing[0], f"{TURN_FIELD}.turn_ids")
        check_named(past_turns(found), session, request, prompt)

    def choose(self, session: Session, request: TurnRequest, text: Text, prompt: int) -> Recalled:
        """Turns that the model will not see when it has read the `prompt` tokens of a turn, as the session is now.

        They push neither one another nor the turn's own words out of the window. Blocks.
        """
        room, budget = max(0, session.window.window - prompt), budget_of(session, request)
        most = min(room, budget + sum(pin.tokens for pin in session.pins))
        sinks, since = session.window.sinks, session.window.start(session.position + prompt + most)
        if since == sinks:  # nothing will have left
            return Recalled()
        copies = self._copies_since(session, since)

        def gone(span: Span) -> bool:
            return span.position < since and span.position + span.tokens > sinks and span.number not in copies

        pins = fitting(filter(gone, session.pins), min(room, most_recalled(session.window.window)))
        taken = {pin.number for pin in pins}
        wanted = self._wanted(session, request, text, since, taken | copies)
        budget = min(budget, room - sum(pin.tokens for pin in pins))
        more = fitting((span for span in wanted if gone(span)), budget)
        return self._read(session, text, {span.number: span for span in (*pins, *more)})

    def _wanted(
        self, session: Session, request: TurnRequest, text: Text, since: int, without: Collection[int]
    ) -> Sequence[Span]:
        """Turns that are named, else those that are found, the best first."""
        if request.recall is not None and request.recall.turn_ids:
            named = past_turns(self._past.read_named(session, request.recall.turn_ids))
            return [turn for turn in named if turn.number not in without]
        if not (session.options.recall_tokens and budget_of(session, request)):
            return ()
        said = said_by_user(request.input, text)
        known = find(self._index, session, said, since, without)
        return [each.span for each in self._ranked(session, text, "\n".join(said), known)]

    def _ranked(self, session: Session, text: Text, asked: str, known: Sequence[Candidate]) -> Sequence[Candidate]:
        def said() -> list[str]:
            read = self._past.read(session, [each.span.number for each in known])
            texts = {turn.number: "\n".join(said_in(turn, text)) for turn, _ in read}
            return [texts.get(each.span.number, "") for each in known]

        try:
            return [each for each in self._ranker(asked, known, said) if each in known]
        except Exception:  # it is others' code
            log.exception("recall.ranker_failed", session=session.name)
            return known

    def _copies_since(self, session: Session, since: int) -> set[int]:
        """Turns that were read again at a position or behind it."""
        start = session.window.start(session.position)
        if self._copies is None:
            self._copies = Copies(self._past.results(session, start))
        self._copies.forget(start)
        return self._copies.numbers(since)

    def _read(self, session: Session, text: Text, chosen: Mapping[int, Span]) -> Recalled:
        kept = self._past.tokens(session, chosen) if chosen else {}
        turns, tokens = list[PastTurn](), list[int]()
        for number, (turn_id, added) in sorted(kept.items()):
            span = chosen[number]
            own = self._first(session, text, span) or added[len(added) - span.tokens :]
            turns.append(PastTurn(number, span.position, len(own), turn_id))
            tokens += own
        return Recalled(tuple(turns), tuple(tokens))

    def _first(self, session: Session, text: Text, span: Span) -> Sequence[int]:
        """Tokens of the first turn, where it began otherwise than it would later; of any other none."""
        if span.position != len(session.opening) or not text.begins_otherwise(session.opening):
            return ()
        return [
            token
            for turn, added in self._past.read(session, [span.number])
            for token in own_tokens(turn, added, session, text)
        ]


def past_turns(read: Sequence[tuple[Turn, Sequence[int]]]) -> list[PastTurn]:
    """Where turns stand, of those that can be read again."""
    return [past for turn, added in read if (past := turn.past(len(added))) is not None]
