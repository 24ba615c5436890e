"""How much is drafted: more while it is right, nothing for a while when it is wrong."""

from __future__ import annotations

from common.window import SessionWindow
from runtime_service.decoding.speculation import FIRST, LONGEST_WAIT, Speculation
from runtime_service.decoding.token_history import TokenHistory

REPEATING = (1, 2, 3, 4, 5) * 8
WINDOW = SessionWindow(2, 60)


def fed(tokens: tuple[int, ...], window: SessionWindow = WINDOW) -> TokenHistory:
    """A session that has fed all of `tokens` but the last."""
    history = TokenHistory(window, tokens)
    history.advance(len(tokens) - 1)
    return history


def grow(history: TokenHistory, token: int) -> None:
    history.append(token)
    history.advance(1)


def test_drafts_grow_while_they_are_right() -> None:
    speculation = Speculation(fed(REPEATING), 15)
    lengths = []
    for _ in range(4):
        lengths.append(len(speculation.draft(15)))
        speculation.note(lengths[-1], lengths[-1])
    assert lengths == [FIRST, 8, 15, 15]
    assert speculation.drafted == speculation.accepted == sum(lengths)


def test_a_draft_that_is_right_in_part_says_how_long_the_next_is() -> None:
    speculation = Speculation(fed(REPEATING), 15)
    speculation.note(15, 5)
    assert len(speculation.draft(15)) == 6
    assert (speculation.drafted, speculation.accepted) == (15, 5)


def test_after_wrong_drafts_there_are_none_for_a_while_and_longer_each_time() -> None:
    speculation = Speculation(fed(REPEATING), 15)
    waits = []
    for _ in range(8):
        speculation.note(len(speculation.draft(15)), 0)
        waits.append(next(steps for steps in range(99) if speculation.draft(15)))
        assert len(speculation.draft(15)) <= FIRST
    assert waits == [1, 2, 4, 8, 16, LONGEST_WAIT, LONGEST_WAIT, LONGEST_WAIT]
    speculation.note(1, 1)
    speculation.note(1, 0)
    assert [len(speculation.draft(15)) for _ in range(2)] == [0, 1]


def test_it_follows_what_is_said() -> None:
    history = fed((1, 2, 3, 4))
    speculation = Speculation(history, 15)
    assert speculation.draft(15) == ()
    for token in (7, 8, 9, 7, 8):
        grow(history, token)
    assert speculation.draft(15) == (9, 7, 8, 9)


def test_sinks_are_looked_at_too_when_the_window_has_left_them() -> None:
    window = SessionWindow(4, 6)
    history = fed((1, 2, 3, 4, *range(20, 40), 1, 2), window)
    history.trim()
    assert Speculation(history, 3).draft(3) == (3, 4, history.tokens(history.start)[-6])


def test_nothing_is_drafted_before_the_input_is_fed_or_where_it_is_off() -> None:
    waiting = TokenHistory(WINDOW, REPEATING)
    assert Speculation(waiting, 15).draft(15) == ()
    assert Speculation(fed(REPEATING), 0).draft(15) == ()
    assert Speculation(fed(REPEATING), 15).draft(0) == ()
