"""A turn that is sent again while it runs: its events as they were, or its reply in one piece where some are gone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from runtime_service.decoding.delta import Delta, TokenLogprobs
from runtime_service.domain.options import GenerationOptions
from runtime_service.turns.events import EventLog, TurnEvent, TurnStarted
from runtime_service.turns.input import prepare_turn
from runtime_service.turns.known import running_turn
from runtime_service.turns.pending import PendingTurn
from tests.fakes.session.parts import SessionParts, request
from tests.samples.session_examples import SESSION


def pending_turn() -> PendingTurn:
    parts = SessionParts()
    wide = replace(SESSION, options=replace(SESSION.options, window_tokens=64))
    return prepare_turn(request("t"), 1, wide, parts.engine, parts.shared.settings)


def told(most: int, count: int) -> tuple[PendingTurn, EventLog, list[Any]]:
    """A turn with its start and `count` pieces, of which the last `most` events are kept."""
    pending, log = pending_turn(), EventLog(0, 0, most, 1 << 20)
    pieces = [Delta(chr(97 + n), (n,), (TokenLogprobs(n, -1.0, b"x", ()),)) for n in range(count)]
    bodies: list[TurnEvent] = [TurnStarted(2, 1, GenerationOptions(9)), *pieces]
    events = [log.append("t", body) for body in bodies]
    for event in events:
        pending.note(event)
    return pending, log, events


def test_events_that_are_all_kept_are_told_as_they_were() -> None:
    pending, log, events = told(most=4, count=3)
    assert running_turn(pending, log).events == tuple(events)


def test_a_reply_of_which_some_is_gone_comes_in_one_piece_without_log_probabilities() -> None:
    pending, log, events = told(most=2, count=3)
    started, reply = running_turn(pending, log).events
    assert started == events[0]
    assert (reply.sequence, reply.body) == (log.last, Delta("abc", (0, 1, 2)))


def test_a_turn_that_waits_has_no_events() -> None:
    assert running_turn(pending_turn(), EventLog(0, 0, 2, 1 << 20)).events == ()
