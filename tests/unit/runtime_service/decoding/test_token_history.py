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


def feed_all(context: TokenHistory, most: int) -> list[tuple[int, int]]:
    fed = []
    while context.unfed:
        tokens = context.next_tokens(most)
        fed += list(enumerate(tokens, context.fed))
        context.advance(len(tokens))
    return fed


@given(WINDOWS, TOKENS, st.integers(1, 5))
def test_everything_is_fed_once_and_in_order(window: SessionWindow, tokens: list[int], most: int) -> None:
    context = TokenHistory(window, tokens)
    assert context.unfed == len(tokens)
    assert feed_all(context, most) == list(enumerate(tokens))


@given(WINDOWS, st.lists(TOKENS, max_size=5))
def test_counts_are_those_of_sinks_and_window(window: SessionWindow, turns: list[list[int]]) -> None:
    context = TokenHistory(window)
    stream: list[int] = []
    for turn in turns:
        context.extend(turn)
        stream += turn
        assert context.counts == visible(stream, window)
        feed_all(context, 3)
        context.trim()
        assert context.kept(context.length) <= window.window


@given(WINDOWS, TOKENS, TOKENS)
def test_a_turn_taken_back_has_not_been(window: SessionWindow, before: list[int], turn: list[int]) -> None:
    context = TokenHistory(window, before)
    feed_all(context, 4)
    context.trim()
    context.extend(turn)
    context.truncate(len(before))
    assert context.counts == visible(before, window)
    assert (context.length, context.unfed) == (len(before), 0)


@given(WINDOWS, TOKENS, st.integers(0, 40), st.integers(1, 5))
def test_a_stored_history_is_fed_from_the_sinks_and_then_from_its_tail(
    window: SessionWindow, tokens: list[int], count: int, most: int
) -> None:
    context = TokenHistory.stored(window, len(tokens))
    start = max(0, len(tokens) - max(count, window.window))
    context.refill(tokens[: window.sinks], start, tokens[start:])
    assert context.counts == visible(tokens, window)
    expected = [(p, t) for p, t in enumerate(tokens) if p < window.sinks or p >= start]
    assert context.unfed == len(expected)
    assert feed_all(context, most) == expected


def test_a_refill_keeps_what_is_at_hand() -> None:
    context = TokenHistory(SessionWindow(2, 3), range(10))
    feed_all(context, 4)
    context.trim()
    assert context.kept(10) == 3
    context.extend([10, 11])
    context.refill([0, 1], 4, range(4, 10))
    assert context.tokens(4) == tuple(range(4, 12))
    assert context.fed == 0


@given(WINDOWS, TOKENS, TOKENS, st.integers(0, 10))
def test_a_view_is_the_sinks_and_the_newest_tokens(
    window: SessionWindow, before: list[int], turn: list[int], recent: int
) -> None:
    recent = min(recent, window.window)
    context = TokenHistory.stored(window, len(before))
    start = max(0, len(before) - window.window)
    context.refill(before[: window.sinks], start, before[start:])
    for tokens in (turn, turn):
        context.settle()
        context.trim()
        context.extend(tokens)
    stream = [*before, *turn, *turn]
    behind = stream[window.sinks :]
    assert context.view(recent) == (*stream[: window.sinks], *behind[max(0, len(behind) - recent) :])
