"""What is said when, in one long session: things are told, and asked for so many windows later. Pure.

Times are in windows of tokens from the session's start. Between them whoever holds the session fills in chat.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sinkserve.evaluation.forms import Form
from sinkserve.evaluation.recall.material import THINGS, Exchange, Thing, distractors, value

DISTANCES = (0.25, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
"""In windows. What was told less than one ago may be in view still."""
_FIRST = 2.0  # windows of chat before anything is told
_APART = 0.5  # windows from question to question
_BEFORE = 0.6  # windows from a thing's first value to the one that replaces it
_AFTER = 0.1  # windows from a line to talk of its number
SHORT, MOST_LINES = 100, 980


class Kind(StrEnum):
    """What makes a question hard."""

    LINE = "a numbered line"
    DISTRACTED = "a line, then talk of its number"
    FACT = "a fact"
    UPDATE = "a fact that was changed"


@dataclass(frozen=True)
class Told:
    """The exchange `name` at a time; `name` is empty for one that nobody asks for."""

    time: float
    said: Exchange
    name: str = ""


@dataclass(frozen=True)
class Asked:
    """A question about what `name` told `windows` earlier; `stale` is a value that holds no longer."""

    time: float
    question: str
    name: str
    value: str
    kind: Kind
    windows: float
    recalls: bool
    stale: str = ""


Step = Told | Asked


def distances_up_to(windows: float) -> tuple[float, ...]:
    """DISTANCES that are no longer."""
    return tuple(distance for distance in DISTANCES if distance <= windows)


def write_plan(form: Form, distances: Sequence[float], questions: int, seed: int) -> list[Step]:
    """Steps in the order of their times: `questions` at each of the distances with recall, and as many without."""
    draw = random.Random(f"recall {seed}")  # noqa: S311 - a test's numbers, the same every time
    slots = [(distance, recalls) for distance in distances for recalls in (True, False) for _ in range(questions)]
    draw.shuffle(slots)
    writer = _Writer(form, draw)
    start = _FIRST + max(distances)
    for number, (distance, recalls) in enumerate(slots):
        writer.add(number, start + _APART * number, distance, recalls=recalls)
    return sorted(writer.steps, key=lambda step: step.time)


@dataclass(frozen=True)
class _Item:
    """What is told, what else is said so many windows after it (or before), and what is asked."""

    said: Exchange
    beside: tuple[tuple[float, Exchange], ...]
    question: str
    value: str
    kind: Kind
    stale: str = ""


class _Writer:
    """Every thing and every line is asked for once; when the things are used up, only lines are left."""

    def __init__(self, form: Form, draw: random.Random) -> None:
        self.steps: list[Step] = []
        self._form = form
        self._draw = draw
        self._taken: set[str] = set()
        self._things = draw.sample(THINGS, len(THINGS))
        self._lines = [*draw.sample(range(SHORT, MOST_LINES + 1), MOST_LINES + 1 - SHORT)]
        self._lines += draw.sample(range(1, SHORT), SHORT - 1)  # taken first: short numbers are read best

    def add(self, number: int, time: float, distance: float, *, recalls: bool) -> None:
        """What is told, and the question about it."""
        thing = self._things.pop() if self._things and number % 2 else None
        item = self._line(distracted=number % 4 == 0) if thing is None else self._fact(thing, changed=number % 4 == 1)
        name, told = f"told-{number}", time - distance
        self.steps += [Told(told + shift, said) for shift, said in item.beside]
        self.steps.append(Told(told, item.said, name))
        self.steps.append(
            Asked(time, item.question, name, item.value, item.kind, distance, recalls=recalls, stale=item.stale)
        )

    def _line(self, *, distracted: bool) -> _Item:
        form, line = self._form, self._lines.pop()
        code = next(code for code in iter(lambda: self._draw.randint(*form.values), None) if code != line)
        said = Exchange(form.fact.format(line=line, value=code), form.reply)
        later = tuple((_AFTER, each) for each in distractors(f"line {line}")) if distracted else ()
        kind = Kind.DISTRACTED if distracted else Kind.LINE
        return _Item(said, later, form.question.format(line=line), str(code), kind)

    def _fact(self, thing: Thing, *, changed: bool) -> _Item:
        new = value(self._draw, thing.kind_of_value, self._taken)
        if not changed:
            return _Item(thing.told(new), (), thing.ask, new, Kind.FACT)
        old = value(self._draw, thing.kind_of_value, self._taken)
        before = ((-_BEFORE, thing.told(old)),)
        return _Item(thing.told(new, changed=True), before, thing.ask, new, Kind.UPDATE, stale=old)
