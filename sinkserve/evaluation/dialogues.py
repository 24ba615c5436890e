"""What a person says in a conversation, read from a file in MT-Bench's form: a JSON object a line."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

_EXAMPLE = 'an object such as {"question_id": 81, "turns": ["Hello.", "And now?"]}'
_RIGHT = {
    "question_id": "a whole number or a text",
    "category": "a text, or left out",
    "turns": "a list of texts, at least one",
}
_RIGHT_TURN = "a text that says something"


@dataclass(frozen=True)
class Dialogue:
    """One question: its turns go into one conversation, in order."""

    question_id: int | str
    category: str
    turns: tuple[str, ...]

    @property
    def name(self) -> str:
        """As progress and reports call it."""
        return f"question {self.question_id}"

    def of_rounds(self, rounds: int) -> Dialogue:
        """The first `rounds` turns, which begin again from the first one where there are fewer."""
        return replace(self, turns=tuple(islice(cycle(self.turns), rounds)))


class _Line(BaseModel):
    model_config = ConfigDict(strict=True)

    question_id: int | str
    category: str = ""
    turns: Annotated[list[Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]], Field(min_length=1)]


def read_dialogues(text: str, *, first: int | None = None) -> list[Dialogue]:
    """The questions of a file, or its `first` ones; empty lines count for nothing, other fields neither.

    Raises ValueError: a line of text for each fault, with the number of the file's line, the field and what is right.
    """
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()][:first]
    found, faults, seen = list[Dialogue](), list[str](), dict[int | str, int]()
    for number, line in lines:
        try:
            read = _Line.model_validate_json(line)
        except ValidationError as error:
            faults += [f"line {number}: {fault}" for fault in dict.fromkeys(_faults(error))]
            continue
        if (before := seen.setdefault(read.question_id, number)) != number:
            faults.append(f"line {number}: question_id {read.question_id!r} is line {before}'s: each has its own")
        found.append(Dialogue(read.question_id, read.category, tuple(read.turns)))
    if faults or not found:
        raise ValueError("\n".join(faults or [f"there is no line: each has to be {_EXAMPLE}"]))
    return found


def _faults(error: ValidationError) -> Iterator[str]:
    for fault in error.errors(include_url=False):
        match fault["loc"]:
            case ():
                yield f"has to be {_EXAMPLE}: {fault['msg'].replace('at line 1 column', 'at column')}"
            case (str(field), int(index), *_) if field == "turns":
                yield f"turns[{index}] has to be {_RIGHT_TURN}, not {reprlib.repr(fault['input'])}"
            case (str(field), *_) if fault["type"] == "missing":
                yield f"{field} is missing: it has to be {_RIGHT[field]}"
            case (str(field), *_):
                yield f"{field} has to be {_RIGHT[field]}, not {reprlib.repr(fault['input'])}"
