"""Token bookkeeping against the plain list that it stands for."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from common.window import SessionWindow
from runtime_service.decoding.token_history import TokenHistory

WINDOWS = st.builds(SessionWindow, st.integers(0, 4), st.integers(1, 8))
TOKENS = st.lists(st.integers(0, 5), max_size=40)


def visible(tokens: list[int], window: SessionWindow) -> Counter[int]:
    first = max(window.sinks, len(tokens) - window.window)
    return Counter([*tokens[: window.sinks], *tokens[first:]])


def feed_all(history: TokenHistory, most: int) -> list[tuple[int, int]]:
    fed = []
    while history.unfed:
        tokens = history.next_tokens(most)
        fed += list(enumerate(tokens, history.fed))
        history.advance(len(tokens))
    return fed


@given(WINDOWS, TOKENS, st.integers(1, 5))
def test_everything_is_fed_once_and_in_order(window: SessionWindow, tokens: list[int], most: int) -> None:
    history = TokenHistory(window, tokens)
    assert history.unfed == len(tokens)
    assert feed_all(history, most) == list(enumerate(tokens))


@given(WINDOWS, st.lists(TOKENS, max_size=5))
def test_counts_are_those_of_sinks_and_window(window: SessionWindow, turns: list[list[int]]) -> None:
    history = TokenHistory(window)
    stream: list[int] = []
    for turn in turns:
        history.extend(turn)
        stream += turn
        assert history.counts == visible(stream, window)
        feed_all(history, 3)
        history.trim()
        assert history.kept(history.length) <= window.window


@given(WINDOWS, TOKENS, TOKENS)
def test_a_turn_taken_back_has_not_been(window: SessionWindow, before: list[int], turn: list[int]) -> None:
    history = TokenHistory(window, before)
    feed_all(history, 4)
    history.trim()
    history.extend(turn)
    history.truncate(len(before))
    assert history.counts == visible(before, window)
    assert (history.length, history.unfed) == (len(before), 0)


@given(WINDOWS, TOKENS, st.integers(0, 40), st.integers(1, 5))
def test_a_stored_history_is_fed_from_the_sinks_and_then_from_its_tail(
    window: SessionWindow, tokens: list[int], count: int, most: int
) -> None:
    history = TokenHistory.stored(window, len(tokens))
    start = max(0, len(tokens) - max(count, window.window))
    history.refill(tokens[: window.sinks], start, tokens[start:])
    assert history.counts == visible(tokens, window)
    expected = [(p, t) for p, t in enumerate(tokens) if p < window.sinks or p >= start]
    assert history.unfed == len(expected)
    assert feed_all(history, most) == expected


def test_a_refill_keeps_what_is_at_hand() -> None:
    history = TokenHistory(SessionWindow(2, 3), range(10))
    feed_all(history, 4)
    history.trim()
    assert history.kept(10) == 3
    history.extend([10, 11])
    history.refill([0, 1], 4, range(4, 10))
    assert history.tokens(4) == tuple(range(4, 12))
    assert history.fed == 0


@given(WINDOWS, TOKENS, TOKENS, st.integers(0, 10))
def test_a_view_is_the_sinks_and_the_newest_tokens(
    window: SessionWindow, before: list[int], turn: list[int], recent: int
) -> None:
    recent = min(recent, window.window)
    history = TokenHistory.stored(window, len(before))
    start = max(0, len(before) - window.window)
    history.refill(before[: window.sinks], start, before[start:])
    for tokens in (turn, turn):
        history.settle()
        history.trim()
        history.extend(tokens)
    stream = [*before, *turn, *turn]
    behind = stream[window.sinks :]
    assert history.view(recent) == (*stream[: window.sinks], *behind[max(0, len(behind) - recent) :])
