"""Which of the turns that were found come first."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from runtime_service.recall.ranking import MOST_CANDIDATES, Candidate, candidates
from runtime_service.recall.shortlist import MOST_READ, shortlist, weight
from runtime_service.recall.words import asked_words, kept_words
from runtime_service.storage.recall.index import Entry, Found, Word
from runtime_service.storage.recall.newest import DEPTH, packed
from runtime_service.storage.rows import pack

KNOWN = "I like the name {}."


class Past:
    """Turns as an index keeps them, by their numbers: what is said, and their tokens."""

    def __init__(self, said: Mapping[int, str], tokens: Mapping[int, int] | None = None) -> None:
        sizes = tokens or {}
        self.turns = {
            number: Entry(number, 10 * number, sizes.get(number, 10), pack(kept_words([text])))
            for number, text in said.items()
        }

    def found(self, asked: str, newest: int) -> Found:
        having = {
            word: [n for n in sorted(self.turns, reverse=True) if word in self.turns[n].words]
            for word in asked_words([asked])
        }
        return Found(newest, tuple(Word(word, len(its), packed(*its[:DEPTH])) for word, its in having.items() if its))

    def ranked(self, asked: str, newest: int | None = None, seen: tuple[int, ...] = ()) -> list[int]:
        found = self.found(asked, max(self.turns) if newest is None else newest)
        read = [self.turns[number] for number in shortlist(found, seen)]
        return [each.span.number for each in candidates(found, asked_words([asked]), read, seen)]


def numbers(turns: Mapping[int, str], asked: str, newest: int = 100) -> list[int]:
    return Past(turns).ranked(asked, newest)


def test_who_has_more_of_the_words_comes_first_and_of_equal_ones_the_newer() -> None:
    told = {5: "a dog, a cat", 10: "a dog", 20: "a bird, a cat, a dog", 30: "a dog, a cat"}
    assert numbers(told, "dog? cat? bird?") == [20, 30, 5]


def test_a_rare_word_weighs_more_than_two_that_all_have() -> None:
    common = dict.fromkeys(range(60, 100), "is there")
    assert numbers({7: "rex", **common}, "is there rex")[0] == 7


def test_a_word_of_which_not_all_turns_are_kept_counts_as_common_as_it_is() -> None:
    newest = packed(*range(1000, 1000 - DEPTH, -1))
    assert weight(Word(1, DEPTH, newest), 1000) > 10 * weight(Word(1, 900, newest), 1000)


def test_what_has_few_of_the_words_is_of_another_matter() -> None:
    assert numbers({1: "a e", 2: "b", 3: "c", 4: "d", 5: "e", 6: "f"}, "a b c d e f", 1000) == [1]


def test_some_are_left_out() -> None:
    assert Past({20: "dog cat", 30: "dog, cat"}).ranked("dog cat", seen=(20,)) == [30]


def test_what_is_far_from_the_best_in_view_or_not_is_of_another_matter() -> None:
    told = {10: "my cat is called Rex", 20: "my dog", 30: "a cat"}
    assert numbers(told, "what is my cat called?") == [10]
    assert numbers({**told, 40: "my cat is called Bo"}, "what is my cat called?", newest=35) == []
    assert Past({5: "my bird is called Kiwi", 40: told[10]}).ranked("what is my cat called?", newest=35) == []


def test_an_old_turn_counts_with_all_of_its_words_not_with_its_rare_one_alone() -> None:
    newer = dict.fromkeys(range(100, 100 + 3 * DEPTH), "the code in my line is good")
    past = Past({3: "line 437: the code is 12.", **newer, 320: "is 437 old?", 321: "I like line 437 and 438."})
    assert past.ranked("what is the code in line 437?", 1000)[0] == 3


def test_an_old_turn_without_a_rare_word_is_not_lost_among_newer_ones_with_fewer_words() -> None:
    newer = {number: f"what is my {number}" for number in range(100, 100 + 3 * DEPTH)}
    cats = {number: f"does a cat like it {number}" for number in range(400, 400 + DEPTH // 2)}
    past = Past({3: f"my cat is called Rex. {KNOWN.format('Rex')}", 5: "my dog is called Bo.", **newer, **cats})
    assert past.ranked("what is my cat called?", 1000)[0] == 3


def test_of_equal_ones_the_much_shorter_and_then_the_newer_is_better() -> None:
    turns = dict.fromkeys((1, 2, 3), "dog")
    assert Past(turns, {1: 5, 2: 20, 3: 5}).ranked("dog", 100) == [3, 1, 2]


def test_words_that_stand_together_as_in_the_question_count_for_more() -> None:
    told = {10: "the friend of Ann is Ben", 20: "the friend of Bob is Ann", 30: "the friend of Tom is Bob"}
    assert numbers(told, "who is the friend of Ann?")[0] == 10
    assert numbers(told, "who is the friend of Bob?")[0] == 20
    assert numbers({1: "does Ann teach Ben?", 2: "Ben: does it teach Ann?"}, "who has Ann teach?")[0] == 1


def test_a_line_is_found_by_its_number_not_by_the_number_that_it_tells() -> None:
    others = {n: f"what is the code in line {n}? The code in line {n} is 83." for n in range(20, 30)}
    assert numbers({10: "line 83: the code is 19.", **others}, "what is the code in line 83?")[0] == 10
    newer = {n: f"{n} and 83 lines" for n in range(20, 30 + 2 * DEPTH)}
    assert numbers({10: "line 83: the code is 19.", **newer}, "line 83", 200) == [10]


def test_a_correction_that_is_a_little_longer_comes_before_what_it_corrects() -> None:
    told = {
        10: f"my cat is called Rex. {KNOWN.format('Rex')}",
        40: f"actually my cat is called Bo. {KNOWN.format('Bo')}",
    }
    assert Past(told, {10: 14, 40: 16}).ranked("what is my cat called?", 100) == [40, 10]


def test_a_newer_turn_with_other_words_of_the_question_does_not_come_before_a_better_one() -> None:
    told = {10: "my cat is called Rex", 40: "my dog is called Bo"}
    assert numbers(told, "what is my cat called?") == [10, 40]


TOLD = {10: f"my cat is called Rex. {KNOWN.format('Rex')}", 40: f"actually my cat is called Bo. {KNOWN.format('Bo')}"}


def test_what_was_corrected_in_view_is_not_recalled() -> None:
    assert Past(TOLD).ranked("what is my cat called?", newest=30) == []
    assert Past(TOLD).ranked("is my cat called Bo?", newest=30) == []
    assert Past({**TOLD, 50: "good day"}).ranked("what is my cat called?", seen=(40,)) == []


def test_a_correction_is_recalled_though_what_it_corrects_was_read_again_and_is_in_view() -> None:
    assert Past(TOLD).ranked("what is my cat called?", seen=(10,)) == [40]


def test_what_is_in_view_leaves_others_that_say_something_else() -> None:
    told = {
        10: "Ann has 17 boats",
        20: "my cat is called Rex",
        40: "Ann is here",
        41: "what is my cat called? I do not know.",
    }
    assert Past(told).ranked("what about Ann?", newest=30) == [10]
    assert Past(told).ranked("what is my cat called?", newest=30)[0] == 20


def test_the_question_asked_before_comes_behind_what_tells_something() -> None:
    told = {
        10: "my cat is called Rex",
        20: "what is my cat called? I do not know.",
        30: "what is my cat called? No idea.",
    }
    assert numbers(told, "what is my cat called?") == [10, 30, 20]


def test_what_begins_with_a_short_question_is_no_question() -> None:
    assert numbers({10: "Ann has 17 boats", 20: "tell Ann of 17 boats"}, "Ann 17?") == [20, 10]
    assert numbers({10: "hello Ann", 20: "Ann has 17 boats"}, "Ann?") == [20, 10]


def test_nothing_found_is_nothing_recalled() -> None:
    assert shortlist(Found(0, ())) == []
    assert candidates(Found(0, ()), (), []) == []


POSTINGS = st.lists(st.integers(1, 500), max_size=DEPTH, unique=True).map(
    lambda some: tuple(sorted(some, reverse=True))
)


@given(st.lists(POSTINGS.filter(bool), max_size=6), st.integers(1, 500), st.sets(st.integers(1, 500)))
def test_scores_are_finite_and_what_is_read_and_ranked_is_bounded(
    turns: list[tuple[int, ...]], newest: int, seen: set[int]
) -> None:
    found = Found(newest, tuple(Word(word, len(its) + word, packed(*its)) for word, its in enumerate(turns)))
    listed = shortlist(found, seen)
    assert len(listed) == len(set(listed)) <= 2 * MOST_READ
    read = [Entry(n, 10 * n, 1 + n % 40, pack(w for w, its in enumerate(turns) if n in its)) for n in listed]
    ranked = candidates(found, range(len(turns)), read, seen)
    assert len(ranked) <= MOST_CANDIDATES
    assert all(_may_be_recalled(each, newest, seen) for each in ranked)


def _may_be_recalled(each: Candidate, newest: int, seen: set[int]) -> bool:
    return 0 < each.score < 100 and each.span.number <= newest and each.span.number not in seen
