"""Turns of a session of which nothing is kept: remembered, as far as memory for them goes."""

from __future__ import annotations

from dataclasses import replace

from runtime_service.domain.session import Session
from runtime_service.domain.turn import TOKEN_BYTES, Turn
from runtime_service.turns.ephemeral import MOST_BYTES, EphemeralTurns
from tests.samples.session_examples import SESSION, turn


class Nowhere:
    def check_owned(self, session: Session) -> None:
        """Nothing."""

    def note_progress(self, session: Session, turn: Turn) -> None:
        """Nothing."""


def test_long_turns_are_forgotten_before_they_fill_the_memory() -> None:
    turns = EphemeralTurns(SESSION, Nowhere(), 8)
    ids = (5,) * (MOST_BYTES // TOKEN_BYTES // 2 - 1)  # two fit
    for number in (1, 2, 3):
        long = turn(number, token_ids=ids)
        turns.add_turn(SESSION, long)
        turns.finish_turn(SESSION, replace(long, attempt=2), ids)  # the same again is counted once
    assert [turns.find_turn(0, f"t{number}") is not None for number in (1, 2, 3)] == [False, True, True]
    turns.add_turn(SESSION, turn(4, token_ids=ids * 3))
    assert [turns.find_turn(0, f"t{number}") is not None for number in (2, 3, 4)] == [False, False, True]
