"""LongMemEval's form in small: many conversations one after another in one session, then questions over all of them.

Of its kinds of questions three: what the user said once, what the user corrected later, and what was never said, which
a model had better not invent. Source: LongMemEval (arXiv 2410.10813), section 3.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

from sinkserve.evaluation.recall.material import THINGS, Exchange, Thing, value

_SHARES = (0.4, 0.7)  # of the things: told once up to the first, corrected up to the second, never told from there
_GREETING, _FAREWELL = Exchange("hello.", "Hello! Tell me something."), Exchange("bye.", "Goodbye!")


class Ability(StrEnum):
    """LongMemEval's names."""

    EXTRACTION = "single-session-user"
    UPDATE = "knowledge-update"
    ABSTENTION = "abstention"


@dataclass(frozen=True)
class Question:
    """`value` is the right answer, empty where there is none; `told_in` is the conversation that has it."""

    ability: Ability
    asked: str
    value: str
    stale: str
    told_in: int | None


@dataclass(frozen=True)
class Past:
    """What is told in each conversation, and the questions behind all of them; `values` are all that were told."""

    conversations: tuple[tuple[Exchange, ...], ...]
    questions: tuple[Question, ...]
    values: frozenset[str]


def write_past(count: int, seed: int) -> Past:
    """`count` conversations, at least as many as there are things to tell."""
    draw = random.Random(f"conversations {seed}")  # noqa: S311 - a test's numbers, the same every time
    things = draw.sample(THINGS, len(THINGS))
    once, twice = (round(share * len(things)) for share in _SHARES)
    told, taken, questions = list[tuple[int, Exchange]](), set[str](), list[Question]()
    for index, thing in enumerate(things):
        if index >= twice:
            questions.append(Question(Ability.ABSTENTION, thing.ask, "", "", None))
            continue
        places = sorted(draw.sample(range(count), 1 if index < once else 2))
        questions.append(_told(thing, places, told, taken, draw))
    conversations = tuple(
        (_GREETING, *(said for at, said in told if at == number), _FAREWELL) for number in range(count)
    )
    return Past(conversations, tuple(draw.sample(questions, len(questions))), frozenset(taken))


def _told(
    thing: Thing, places: list[int], told: list[tuple[int, Exchange]], taken: set[str], draw: random.Random
) -> Question:
    values = [value(draw, thing.kind_of_value, taken) for _ in places]
    told += [(at, thing.told(each, changed=bool(n))) for n, (at, each) in enumerate(zip(places, values, strict=True))]
    ability = Ability.EXTRACTION if len(places) == 1 else Ability.UPDATE
    return Question(ability, thing.ask, values[-1], values[0] if len(values) > 1 else "", places[-1])
