"""The search is told apart from the model, and what another question spoilt is left out."""

from __future__ import annotations

import pytest

from sinkserve.cli.eval_view import recall_cells
from sinkserve.evaluation.recall.plan import Asked, Kind
from sinkserve.evaluation.recall.scores import Answer, Recall, Score, beyond, by_distance, by_kind, inside, row


def answer(windows: float, *, recalls: bool, found: bool, right: bool, before: bool = False) -> Answer:
    return Answer(Asked(9.0, "?", "t", "42", Kind.LINE, windows, recalls), found, right, before)


ANSWERS = [
    answer(0.5, recalls=True, found=False, right=True),
    answer(0.5, recalls=False, found=False, right=True),
    answer(0.5, recalls=False, found=False, right=False),
    answer(2.0, recalls=True, found=True, right=True),
    answer(2.0, recalls=True, found=True, right=False),
    answer(2.0, recalls=True, found=False, right=False),
    answer(2.0, recalls=False, found=False, right=False),
    answer(2.0, recalls=False, found=True, right=True, before=True),
]


def test_found_and_right_are_counted_apart() -> None:
    near, far = by_distance(ANSWERS)
    assert (near.name, near.windows, far.name) == ("0.5", 0.5, "2")
    assert far.with_recall == Score(asked=3, found=2, right=1, right_of_found=1)
    assert far.without == Score(asked=1, found=0, right=0, right_of_found=0), "one was brought back by another question"
    assert recall_cells(far) == ["2", "67% of 3", "33% of 3", "50% of 2", "0% of 1"]
    assert recall_cells(row("none", [])) == ["none", *["none"] * 4]


def test_what_is_kept_is_what_recall_gives_beyond_of_what_the_window_gives_without() -> None:
    (lines, *_) = by_kind(ANSWERS)
    assert lines.with_recall.asked == 3
    rows = row("inside", inside(ANSWERS)), row("beyond", beyond(ANSWERS))
    measured = Recall("demo@1", "codes", 252, 31, 600, 1, by_distance(ANSWERS), by_kind(ANSWERS), *rows, (), 0)
    assert measured.kept == pytest.approx((1 / 3) / (1 / 2))
