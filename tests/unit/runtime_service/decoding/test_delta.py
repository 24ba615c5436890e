"""Pieces of a reply that wait become fewer: nothing is lost, and none grows without bound."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime_service.decoding.delta import (
    MOST_BYTES,
    MOST_TOKENS,
    Delta,
    TokenLogprobs,
    TopLogprob,
    coalesce,
    join,
)


@dataclass(frozen=True)
class Item:
    """Something that waits, with a piece of a reply or without."""

    number: int
    delta: Delta | None


def coalesced(items: Iterable[Item]) -> list[Item]:
    return list(coalesce(items, lambda item: item.delta, lambda item, delta: Item(item.number, delta)))


def waiting(deltas: Iterable[Delta | None]) -> list[Item]:
    return [Item(number, delta) for number, delta in enumerate(deltas, 1)]


def piece(tokens: int, top: int = 0) -> Delta:
    """With log-probabilities of `top` likeliest tokens each, if that is not 0."""
    entry = TokenLogprobs(7, -1.0, b"x", tuple(TopLogprob(token, -1.0, b"x") for token in range(top)))
    return Delta("x" * tokens, (7,) * tokens, (entry,) * tokens if top else ())


def sizes(items: Iterable[Item]) -> list[int]:
    return [0 if item.delta is None else len(item.delta.token_ids) for item in items]


def test_one_piece_is_itself() -> None:
    single = Delta("a", (1,))
    assert join([single]) is single
    assert join([single, Delta("b", (2, 3))]) == Delta("ab", (1, 2, 3))


PIECES = st.builds(piece, st.integers(0, 100), st.sampled_from([0, 0, 1, 20, 200]))


@given(st.lists(st.none() | PIECES, max_size=100))
def test_joining_pieces_loses_nothing_and_keeps_the_order(deltas: list[Delta | None]) -> None:
    items = waiting(deltas)
    told = coalesced(items)
    for name in ("text", "token_ids", "logprobs"):
        before = [part for delta in deltas if delta for part in getattr(delta, name)]
        assert [part for item in told if item.delta for part in getattr(item.delta, name)] == before
    assert [item for item in told if item.delta is None] == [item for item in items if item.delta is None]
    assert [item.number for item in told] == sorted(item.number for item in told)
    assert not items or told[-1].number == items[-1].number
    for one, two in pairwise(told):
        if one.delta is not None and two.delta is not None:
            first = next(item.delta for item in items if item.number == one.number + 1)
            assert first is not None
            assert beyond_bounds(join([one.delta, first])), "what could be one is one"
    assert not [item.delta for item in told if item not in items and item.delta and beyond_bounds(item.delta)]


def beyond_bounds(delta: Delta) -> bool:
    return len(delta.token_ids) > MOST_TOKENS or delta.size_bytes > MOST_BYTES


def test_pieces_are_joined_up_to_the_most_tokens_and_not_beyond() -> None:
    assert sizes(coalesced(waiting([piece(1)] * (2 * MOST_TOKENS + 1)))) == [MOST_TOKENS, MOST_TOKENS, 1]
    assert sizes(coalesced(waiting([piece(MOST_TOKENS - 1), piece(1), piece(1)]))) == [MOST_TOKENS, 1]
    assert sizes(coalesced(waiting([piece(MOST_TOKENS - 1), piece(2), piece(1)]))) == [MOST_TOKENS - 1, 3]
    assert sizes(coalesced(waiting([piece(1), piece(5 * MOST_TOKENS), piece(1)]))) == [1, 5 * MOST_TOKENS, 1]


def test_pieces_with_many_log_probabilities_are_joined_up_to_the_most_bytes_and_not_beyond() -> None:
    big = piece(1, top=20)
    fitting = MOST_BYTES // big.size_bytes
    assert 1 < fitting < MOST_TOKENS
    assert sizes(coalesced(waiting([big] * (2 * fitting + 1)))) == [fitting, fitting, 1]
    exact = Delta("x" * (MOST_BYTES - big.size_bytes))
    assert len(coalesced(waiting([big, exact]))) == 1
    assert len(coalesced(waiting([big, exact, Delta("x")]))) == 2
    assert len(coalesced(waiting([big, Delta(exact.text + "x")]))) == 2


@pytest.mark.parametrize("tops", [0, 1, 20])
def test_the_size_of_a_piece_counts_all_that_it_has(tops: int) -> None:
    small, large = piece(1, tops), piece(2, tops)
    assert large.size_bytes == 2 * small.size_bytes
    assert small.size_bytes >= len(small.text) + 8 + 100 * tops
