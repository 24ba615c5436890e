"""Figures of recall: how often the right turn was read again, and how often the reply was right.

The two are told apart: a turn that is not found is the search's fault, a wrong reply behind the right turn the model's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sinkserve.evaluation.recall.plan import Asked, Kind


@dataclass(frozen=True)
class Size:
    """What is measured: distances up to `windows`, `questions` at each with recall and as many without.

    And questions over so many `conversations`. `recall_tokens` None: an eighth of the window.
    """

    windows: float
    questions: int
    conversations: int
    recall_tokens: int | None = None


@dataclass(frozen=True)
class Answer:
    """How a question went: `found` if the right turn was read again and is in view, by this question or another."""

    question: Asked
    found: bool
    right: bool
    in_view_before: bool

    @property
    def windows(self) -> float:
        """How long before it was told."""
        return self.question.windows

    @property
    def counts(self) -> bool:
        """Whether it says something: not of a question without recall, whose answer another had brought back."""
        return self.question.recalls or not self.in_view_before


@dataclass(frozen=True)
class Score:
    """Questions; those with the right turn read again in view; right replies, in all and of those."""

    asked: int
    found: int
    right: int
    right_of_found: int

    @property
    def accuracy(self) -> float | None:
        """Right replies of all, from 0 to 1; None where nothing was asked."""
        return self.right / self.asked if self.asked else None


@dataclass(frozen=True)
class Row:
    """Scores with recall and without: of a distance in windows, of a kind, or of an ability."""

    name: str
    windows: float | None
    with_recall: Score
    without: Score


@dataclass(frozen=True)
class Recall:
    """The measurement. `inside` is of what was told less than a window before, `beyond` of the rest.

    `left_out` are questions without recall whose answer another question had brought back into the window.
    """

    engine: str
    form: str
    window_tokens: int
    recall_tokens: int
    position: int
    left_out: int
    distances: tuple[Row, ...]
    kinds: tuple[Row, ...]
    inside: Row
    beyond: Row
    conversations: tuple[Row, ...]
    conversation_tokens: int

    @property
    def kept(self) -> float | None:
        """Accuracy beyond the window with recall, as a share of that inside it without."""
        inside, beyond = self.inside.without.accuracy, self.beyond.with_recall.accuracy
        return beyond / inside if inside and beyond is not None else None


def score(outcomes: Iterable[tuple[bool, bool]]) -> Score:
    """The score of pairs: whether the right turn was found, and the reply right."""
    every = list(outcomes)
    found = [right for found, right in every if found]
    return Score(len(every), len(found), sum(right for _, right in every), sum(found))


def row(name: str, answers: Sequence[Answer], windows: float | None = None) -> Row:
    """Scores of those answers that count."""
    with_recall, without = (
        score((each.found, each.right) for each in answers if each.counts and each.question.recalls is recalls)
        for recalls in (True, False)
    )
    return Row(name, windows, with_recall, without)


def by_distance(answers: Sequence[Answer]) -> tuple[Row, ...]:
    """A row for each distance."""
    distances = sorted({each.windows for each in answers})
    return tuple(row(f"{at:g}", [each for each in answers if each.windows == at], at) for at in distances)


def by_kind(answers: Sequence[Answer]) -> tuple[Row, ...]:
    """A row for each kind of question, of what was told at least a window before."""
    return tuple(row(kind.value, [each for each in beyond(answers) if each.question.kind is kind]) for kind in Kind)


def inside(answers: Sequence[Answer]) -> list[Answer]:
    """What was told less than a window before."""
    return [each for each in answers if each.windows < 1]


def beyond(answers: Sequence[Answer]) -> list[Answer]:
    """What was told at least a window before."""
    return [each for each in answers if each.windows >= 1]
