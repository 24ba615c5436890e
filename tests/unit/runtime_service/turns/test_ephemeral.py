"""Turns of a session of which nothing is kept: remembered, as far as memory for them goes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.db.paging import read_page
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


@pytest.mark.parametrize("newest_first", [False, True])
def test_pages_of_turns_come_in_order(newest_first: bool) -> None:
    turns = EphemeralTurns(SESSION, Nowhere(), 8)
    for number in range(1, 6):
        turns.add_turn(SESSION, turn(number))
    seen, token = [], ""
    while True:
        found, token = turns.list_turns(SESSION, read_page(2, token, "turns", (int,)), newest_first=newest_first)
        seen += [each.number for each in found]
        if not token:
            break
    assert seen == sorted([1, 2, 3, 4, 5], reverse=newest_first)
