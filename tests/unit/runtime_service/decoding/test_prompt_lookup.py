"""Drafts are what followed the newest tokens before: against a search that is plain to see."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime_service.decoding.prompt_lookup import LEAST, LONGEST, PLACES, PromptLookup


def plainly(tokens: list[int], most: int) -> tuple[int, ...]:
    """What `PromptLookup.draft` says, place by place."""
    best, found = LEAST - 1, None
    for place in range(1, len(tokens)):
        agreeing = 0
        while agreeing < min(LONGEST, place) and tokens[place - 1 - agreeing] == tokens[-1 - agreeing]:
            agreeing += 1
        if agreeing >= max(best, LEAST):
            best, found = agreeing, place
    if found is None:
        return ()
    return tuple(tokens[found + index % (len(tokens) - found)] for index in range(most))


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 15), st.integers(1, 30), st.integers(1, 9))
def test_it_finds_the_longest_agreement_and_of_those_the_newest(
    tokens: list[int], most: int, keep: int, piece: int
) -> None:
    lookup = PromptLookup(keep)
    for start in range(0, len(tokens), piece):
        lookup.push(tokens[start : start + piece])
        known = tokens[: start + piece]
        assert lookup.draft(most) == plainly(known[-keep:], most)


@pytest.mark.parametrize(
    ("tokens", "drafted"),
    [
        ([], ()),
        ([1], ()),
        ([1, 1], ()),
        ([1, 2, 3, 9, 2, 4, 1], ()),  # a single token was there before: by chance
        ([1, 2, 3, 4, 9, 1, 2], (3, 4, 9, 1)),
        ([1, 2, 3, 1, 2, 4, 1, 2], (4, 1, 2, 4)),  # the newer of two, and as it goes on where it ends
        ([8, 1, 2, 3, 1, 2, 4, 8, 1, 2], (3, 1, 2, 4)),  # the longer of two
        ([5, 5, 5], (5, 5, 5, 5)),
    ],
)
def test_examples(tokens: list[int], drafted: tuple[int, ...]) -> None:
    lookup = PromptLookup(100)
    lookup.push(tokens)
    assert lookup.draft(4) == drafted


def test_of_a_token_that_is_everywhere_only_the_newest_places_are_compared() -> None:
    lookup = PromptLookup(5000)
    lookup.push([1, 2, 3, 4, *([9, 3] * PLACES), 1, 2, 3])
    assert lookup.draft(1) == ()


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=300), st.integers(1, 7))
def test_tokens_that_left_are_not_found(tokens: list[int], keep: int) -> None:
    lookup = PromptLookup(keep)
    lookup.push(tokens)
    assert set(lookup.draft(15)) <= set(tokens[-keep:])
