"""Which of the turns that were found come first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime_service.domain.recall import Span
from runtime_service.recall.ranking import MOST_CANDIDATES, candidates, scores
from runtime_service.storage.recall.index import Found, Word
from runtime_service.storage.recall.newest import DEPTH


def numbers(newest: int, *turns: tuple[int, ...], without: tuple[int, ...] = ()) -> list[int]:
    found = Found(newest, tuple(Word(len(each), each) for each in turns))
    return [number for _, number in scores(found, without)]


def test_who_has_more_of_the_words_comes_first_and_of_equal_ones_the_newer() -> None:
    assert numbers(50, (30, 20, 10), (20, 5)) == [20, 5, 30, 10]


def test_a_rare_word_weighs_more_than_two_that_all_have() -> None:
    common = tuple(range(90, 90 - DEPTH // 2, -1))
    assert numbers(100, (7,), common, common)[0] == 7


def test_a_word_of_which_not_all_turns_are_kept_counts_as_common_as_it_is() -> None:
    newest = tuple(range(1000, 1000 - DEPTH, -1))
    (most, _), *_ = scores(Found(1000, (Word(DEPTH, newest),)))
    (least, _), *_ = scores(Found(1000, (Word(900, newest),)))
    assert most > 10 * least


def test_what_has_few_of_the_words_is_of_another_matter() -> None:
    assert numbers(1000, (1,), (2,), (3,), (4,), (5, 1), (6,)) == [1]


def test_some_are_left_out() -> None:
    assert numbers(50, (30, 20), (20,), without=(20,)) == [30]


def test_of_equal_ones_the_shorter_and_then_the_newer_is_better() -> None:
    spans = [Span(1, 10, 5), Span(2, 20, 50), Span(3, 70, 5)]
    ordered = candidates([(1.0, 1), (1.0, 2), (1.0, 3), (9.0, 4)], spans)
    assert [each.span.number for each in ordered] == [3, 1, 2]


def test_nothing_found_is_nothing_recalled() -> None:
    assert scores(Found(0, ())) == []
    assert candidates([], []) == []


POSTINGS = st.lists(st.integers(1, 500), max_size=DEPTH, unique=True).map(
    lambda some: tuple(sorted(some, reverse=True))
)


@given(st.lists(POSTINGS.filter(bool), max_size=6))
def test_scores_are_finite_bounded_in_number_and_in_order(turns: list[tuple[int, ...]]) -> None:
    found = scores(Found(500, tuple(Word(len(each), each) for each in turns)))
    assert len(found) <= MOST_CANDIDATES
    assert found == sorted(found, reverse=True)
    assert all(0 < score < 100 for score, _ in found)
