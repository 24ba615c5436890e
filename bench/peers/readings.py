"""Figures of a run, and how they compare: pairs measured one after the other, medians, and their spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

FIRST = "first token of a turn"
TURN = "turn"


@dataclass(frozen=True)
class Reading:
    """What one peer showed in one measure, a value a round; or why it showed nothing."""

    shape: str
    member: str
    measure: str
    unit: str
    values: tuple[float, ...] = ()
    error: str = ""

    @property
    def more_is_better(self) -> bool:
        return self.unit.endswith("/s")


@dataclass(frozen=True)
class Ratio:
    """How many times better the one was than the other: the median over rounds, the worst and the best round."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{figure(self.median)} ({figure(self.least)} to {figure(self.most)})"


def compare(one: Reading, other: Reading) -> Ratio | None:
    """Round by round, since rounds of both took place by turns; None unless both have values."""
    assert one.unit == other.unit, (one, other)
    pairs = list(zip(one.values, other.values, strict=False))
    if not pairs:
        return None
    ratios = [a / b if one.more_is_better else b / a for a, b in pairs]
    return Ratio(median(ratios), min(ratios), max(ratios))


def find(readings: Sequence[Reading], shape: str, member: str, measure: str) -> Reading | None:
    """The reading of that name, if it was taken."""
    named = (each for each in readings if (each.shape, each.member, each.measure) == (shape, member, measure))
    return next(named, None)


def figure(value: float) -> str:
    """Three digits."""
    return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f}" if value < 1000 else f"{value:.0f}"
