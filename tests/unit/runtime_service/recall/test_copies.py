"""Which turns stand in the window because they were read again."""

from __future__ import annotations

from runtime_service.domain.recall import PastTurn
from runtime_service.domain.turn import FinishReason, Result, Timing, Usage
from runtime_service.recall.copies import Copies

BOTH = (PastTurn(1, 0, 10, "a"), PastTurn(2, 10, 5, "b"))


def ended(position: int, prompt: int) -> Result:
    usage = Usage(prompt_tokens=prompt, position=position, recalled_tokens=min(prompt, 15))
    return Result(FinishReason.STOP, usage, Timing(), prompt, recalled=BOTH)


def test_copies_stand_one_behind_the_other_where_their_turn_begins() -> None:
    copies = Copies([(ended(130, 20), 30)])
    assert copies.numbers(100) == {1, 2}
    assert copies.numbers(101) == {2}
    assert copies.numbers(111) == set()


def test_what_was_not_fed_as_a_whole_or_was_taken_back_is_no_copy() -> None:
    assert Copies([(ended(112, 12), 12)]).numbers(0) == {1}
    assert Copies([(ended(100, 20), 0)]).numbers(0) == set()


def test_the_newest_copy_counts() -> None:
    copies = Copies([(ended(230, 20), 30), (ended(130, 20), 30)])
    assert copies.numbers(200) == {1, 2}
    copies.note(ended(330, 20), 30)
    assert copies.numbers(300) == {1, 2}


def test_what_is_forgotten_does_not_come_back() -> None:
    copies = Copies([(ended(130, 20), 30)])
    copies.forget(105)
    assert copies.numbers(0) == {2}
