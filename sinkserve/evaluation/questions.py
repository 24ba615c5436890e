"""Streams of numbered lines with questions in between, as tokens, with the place of every fact and every answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from runtime_service.decoding.text import Text
from runtime_service.domain.turn import Message
from sinkserve.evaluation.forms import Form

LINES_A_QUESTION = 2


@dataclass(frozen=True)
class Question:
    """A question about the line `back` lines ago: positions [first, last) of what states it and of the value asked.

    The reply is what the model has to say by itself, from `reply` to the value's end.
    """

    back: int
    fact: tuple[int, int]
    reply: int
    value: tuple[int, int]

    @property
    def distance(self) -> int:
        """Tokens from the end of the fact to the value in the answer."""
        return self.value[0] - self.fact[1]

    def sees(self, sinks: int, window: int) -> bool | None:
        """Whether the whole fact is in view until the reply has said the value; None where only a part of it is."""
        first, last = self.fact
        if last <= sinks or first > self.value[1] - 2 - window:
            return True
        return False if last - 1 <= self.reply - 1 - window and first >= sinks else None


@dataclass
class Script:
    """A stream so far."""

    tokens: list[int]
    questions: list[Question] = field(default_factory=list)


def write_script(text: Text, form: Form, distances: Sequence[int], length: int, seed: int) -> Script:
    """Numbered lines until there are `length` tokens; after every second one a question, no line asked for twice.

    Every question is about a line one of `distances` back, drawn at random; the right answer follows.
    """
    draw = random.Random(f"streameval {seed}")  # noqa: S311 - a test's numbers, the same every time
    writer = _Writer(text, form, Script(list(text.opening())), draw)
    while len(writer.script.tokens) < length:
        for _ in range(LINES_A_QUESTION):
            writer.state()
        writer.ask(distances)
    del writer.script.tokens[length:]
    writer.script.questions = [item for item in writer.script.questions if item.value[1] <= length]
    return writer.script


def tokens_a_line(text: Text, form: Form) -> float:
    """Tokens that a line takes, its share of the questions included."""
    writer = _Writer(text, form, Script([]), random.Random(0))  # noqa: S311 - likewise
    for _ in range(8):
        for _ in range(LINES_A_QUESTION):
            writer.state()
        writer.ask((1,))
    return len(writer.script.tokens) / (8 * LINES_A_QUESTION)


class _Writer:
    """Appends turns to a script and remembers where each line's fact is until it is asked for."""

    def __init__(self, text: Text, form: Form, script: Script, draw: random.Random) -> None:
        self.script = script
        self._text = text
        self._form = form
        self._draw = draw
        self._stated = 0
        self._facts: dict[int, tuple[int, tuple[int, int]]] = {}  # by how many lines there were: value, positions

    def state(self) -> None:
        """The next line, and the reply to it."""
        value = self._draw.randint(*self._form.values)
        start = len(self.script.tokens)
        self._say("user", self._form.fact.format(line=self._number(self._stated), value=value))
        self._facts[self._stated] = (value, (start, len(self.script.tokens)))
        self._say("assistant", self._form.reply)
        self._stated += 1

    def ask(self, distances: Sequence[int]) -> None:
        """A question about a line that was not asked for, if there is one at any of `distances`, and its answer."""
        known = [back for back in distances if self._stated - back in self._facts]
        if not known:
            return
        back = self._draw.choice(known)
        line = self._number(self._stated - back)
        value, fact = self._facts.pop(self._stated - back)
        self._say("user", self._form.question.format(line=line))
        start = len(self.script.tokens)
        answer = self._form.answer.format(line=line, value=value)
        self._say("assistant", answer)
        before = answer[: answer.rindex(str(value))]
        said = start + len(self._text.assistant_before)
        place = value_tokens(self._text, self.script.tokens[start:], before, str(value))
        self.script.questions.append(Question(back, fact, said, (start + place[0], start + place[1])))

    def _say(self, role: str, content: str) -> None:
        self.script.tokens += self._text.messages([Message(role, content)])

    def _number(self, stated: int) -> int:
        return stated % self._form.lines + 1


def value_tokens(text: Text, tokens: Sequence[int], before: str, value: str) -> tuple[int, int]:
    """Which of a message's tokens [first, last) have the characters of `value`, which follow `before` in it."""
    said, first = "", None
    for index, token in enumerate(tokens):
        said += text.token_bytes(token).decode(errors="replace")
        reached = said[said.find(before) :] if before in said else ""
        if first is None and len(reached) > len(before) and reached[len(before) :].strip():
            first = index
        if reached.startswith(before + value):
            assert first is not None
            return first, index + 1
    raise AssertionError(f"{value!r} is not where the answer says it: {said!r}")
