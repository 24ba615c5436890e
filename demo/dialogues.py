"""Endless seeded conversations with the right answers, for training, evaluation and the scripted demo.

No third-party imports. `conversation(rng)` yields turns forever; a turn that asks for something told earlier carries
`recall_distance`, the number of turns since either side last said it. Nothing is asked that is not either at most
`reach` turns back, or never told (or told so long ago that no window holds it): then the reply says so.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

from demo import words
from demo.keys import KEYS, Key

Thing = TypeVar("Thing")
NOT_SEEN = "The code in line {n} is one I have not seen."
ASK_CODE = ("what is the code in line {n}?", "what is the code in line {n}?", "which code is in line {n}?")
FORGOTTEN = 60  # turns after which no 256-token window can still hold a thing


@dataclass(frozen=True)
class Turn:
    """What the user says and the right reply; of a recall, how many turns back the value was last said.

    `values` are the recalled values, one for each sentence of the reply.
    """

    user: str
    assistant: str
    kind: str
    recall_distance: int | None = None
    values: tuple[str, ...] = ()


@dataclass
class Talker:
    """The person talking: what has been told, when it was last said, and where the numbered lines stand."""

    rng: random.Random
    reach: int = 8
    held_out: bool = False
    noise: float = 1.0
    drill: bool = False
    turns: int = 0
    told: dict[str, tuple[str, int]] = field(default_factory=dict)
    codes: dict[int, tuple[int, int]] = field(default_factory=dict)
    line: int = 0
    stream_left: int = 0
    vague: set[str] = field(default_factory=set)

    def next(self) -> Turn:
        """The next turn: a step of a run of numbered lines, or chat."""
        if self.stream_left == 0 and self.rng.random() < 0.04:
            start_lines(self)
        kind = self._stream_kind() if self.stream_left else self._chat_kind()
        turn = MAKERS[kind](self)
        self.turns += 1
        return replace(turn, user=spoken(self, turn.user))

    def _stream_kind(self) -> str:
        self.stream_left -= 1
        if self.drill:
            return self.rng.choices(("line", "lines", "code", "roll_lines"), (15, 15, 30, 40))[0]
        return self.rng.choices(("line", "lines", "code", "unseen"), (60, 4, 34, 2))[0]

    def _chat_kind(self) -> str:
        if self.drill:
            return self.rng.choices(("tell", "tells", "recall", "change", "roll"), (12, 16, 28, 4, 40))[0]
        kinds = ("tell", "tells", "recall", "untold", "change", "sum", "fact", "talk", "echo", "aside", "code")
        return self.rng.choices(kinds, (20, 3, 28, 8, 5, 18, 10, 9, 2, 2, 2))[0]


def spoken(talker: Talker, text: str) -> str:
    """The sentence as people type it: sometimes with a capital, sometimes without its full stop."""
    rng = talker.rng
    if rng.random() < 0.3 * talker.noise:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.2 * talker.noise:
        text = text.rstrip(".?")
    return text or "."


def tell(talker: Talker) -> Turn:
    """Something new about the user."""
    key = talker.rng.choice(KEYS)
    if key.noun in talker.told and talker.rng.random() < 0.7:
        key = talker.rng.choice(KEYS)
    return _say(talker, key, key.tell, "tell")


def tells(talker: Talker) -> Turn:
    """Two or three new things in one message."""
    said = [_say(talker, key, key.tell, "tells") for key in talker.rng.sample(KEYS, talker.rng.randint(2, 4))]
    return Turn(" ".join(turn.user for turn in said), "I will remember that.", "tells")


def change(talker: Talker) -> Turn:
    """A new value for something told before: the latest one counts."""
    known = _within(talker)
    if not known:
        return tell(talker)
    key = talker.rng.choice(known)
    return _say(talker, key, key.change, "change")


def _say(talker: Talker, key: Key, sentences: tuple[str, ...], kind: str) -> Turn:
    value = key.draw(talker.rng, talker.held_out)
    talker.told[key.noun] = (value, talker.turns)
    return Turn(talker.rng.choice(sentences).format(v=value), key.known.format(v=value), kind)


def _within(talker: Talker) -> list[Key]:
    since = talker.turns - talker.reach
    return [key for key in KEYS if key.noun in talker.told and talker.told[key.noun][1] >= since]


def recall(talker: Talker) -> Turn:
    """A question about something told at most `reach` turns ago, farther ones preferred."""
    known = _within(talker)
    if not known:
        return tell(talker)
    key = min(_some(talker, known), key=lambda key: talker.told[key.noun][1])
    return tell(talker) if _too_easy(talker, talker.told[key.noun][1]) else recall_of(talker, key)


def _too_easy(talker: Talker, at: int) -> bool:
    """Most questions about what was said a moment ago give way, so that distances spread."""
    return talker.turns - at <= 2 and talker.rng.random() < 0.6


def _some(talker: Talker, things: list[Thing]) -> list[Thing]:
    """All of them or a random one: the oldest of these is as often the oldest of all as any."""
    return things if talker.rng.random() < 0.5 else [talker.rng.choice(things)]


def recall_of(talker: Talker, key: Key) -> Turn:
    """The question about one told key. The answer says the value again, so its distance starts anew."""
    value, at = talker.told[key.noun]
    talker.told[key.noun] = (value, talker.turns)
    return Turn(talker.rng.choice(key.ask), key.answer.format(v=value), "recall", talker.turns - at, (value,))


def roll(talker: Talker) -> Turn:
    """Everything told lately, in any order: many recalls in one reply, from which copying is learned quickly."""
    known = _within(talker)
    if len(known) < 3:
        return tells(talker)
    turns = [recall_of(talker, key) for key in talker.rng.sample(known, min(len(known), 6))]
    return _joined("what do you know about me?", turns)


def roll_lines(talker: Talker) -> Turn:
    """The same of numbered lines."""
    if len(talker.codes) < 3:
        return lines(talker)
    turns = [
        code_of(talker, number) for number in talker.rng.sample(sorted(talker.codes)[-8:], min(len(talker.codes), 6))
    ]
    return _joined("read the lines.", turns)


def _joined(user: str, turns: list[Turn]) -> Turn:
    values = tuple(value for turn in turns for value in turn.values)
    return Turn(user, " ".join(turn.assistant for turn in turns), "roll", None, values)


def untold(talker: Talker) -> Turn:
    """A question about something that was never told, or longer ago than any window."""
    free = [key for key in KEYS if key.noun not in talker.vague and _forgotten(talker, key)]
    if not free:
        return talk(talker)
    key = talker.rng.choice(free)
    return Turn(talker.rng.choice(key.ask), key.untold, "untold", None, (_first_word(key),))


def _first_word(key: Key) -> str:
    """Where the reply parts from a recall."""
    return key.untold[key.answer.index("{v}") :].split()[0]


def _forgotten(talker: Talker, key: Key) -> bool:
    return key.noun not in talker.told or talker.told[key.noun][1] < talker.turns - FORGOTTEN


def start_lines(talker: Talker, length: int | None = None) -> None:
    """Begin a run of numbered lines at a random number, so that no number is tied to a place."""
    talker.line = talker.rng.randint(1, 90) if talker.rng.random() < 0.85 else talker.rng.randint(100, 980)
    talker.stream_left = length if length is not None else talker.rng.randint(6, 24)
    talker.codes.clear()


def line(talker: Talker, count: int = 1) -> Turn:
    """The next numbered line (or several in one message), StreamEval's statement."""
    parts = []
    for _ in range(count):
        code = talker.rng.randint(0, 99)
        talker.codes[talker.line] = (code, talker.turns)
        parts.append(f"line {talker.line}: the code is {code}.")
        talker.line += 1
    return Turn(" ".join(parts), "Noted.", "line")


def lines(talker: Talker) -> Turn:
    """Two to four numbered lines in one message."""
    return line(talker, talker.rng.randint(2, 4))


def code(talker: Talker) -> Turn:
    """A question about a line at most `reach` turns back, StreamEval's query."""
    known = [n for n, (_, at) in talker.codes.items() if at >= talker.turns - talker.reach]
    if not known:
        return line(talker) if talker.stream_left else recall(talker)
    number = min(_some(talker, known), key=lambda n: talker.codes[n][1])
    if talker.stream_left and _too_easy(talker, talker.codes[number][1]):
        return line(talker)
    return code_of(talker, number)


def code_of(talker: Talker, number: int) -> Turn:
    """The question about one line. The answer says the code again, so its distance starts anew."""
    value, at = talker.codes[number]
    talker.codes[number] = (value, talker.turns)
    user, reply = talker.rng.choice(ASK_CODE).format(n=number), f"The code in line {number} is {value}."
    return Turn(user, reply, "code", talker.turns - at, (str(value),))


def unseen(talker: Talker) -> Turn:
    """A question about a line that has not come yet."""
    number = talker.line + talker.rng.randint(5, 40)
    return Turn(f"what is the code in line {number}?", NOT_SEEN.format(n=number), "unseen", None, ("one",))


def small_sum(talker: Talker) -> Turn:
    """A sum or a difference with nothing above twenty."""
    total = talker.rng.randint(0, 20)
    a = talker.rng.randint(0, total)
    left, sign, right, result = (a, "+", total - a, total) if talker.rng.random() < 0.6 else (total, "-", a, total - a)
    ask = talker.rng.choice(("what is {q}?", "what is {q}?", "how much is {q}?", "{q}?", "compute {q}."))
    question = f"{left} {sign} {right}"
    return Turn(ask.format(q=question), f"{question} is {result}.", "sum", None, (str(result),))


def fact(talker: Talker) -> Turn:
    """A question from the fact table."""
    return Turn(*talker.rng.choice(talker.rng.choice(FACTS)), kind="fact")


def talk(talker: Talker) -> Turn:
    """A greeting or a remark."""
    users, reply = talker.rng.choice(words.SMALL_TALK)
    return Turn(talker.rng.choice(users), reply, "talk")


def echo(talker: Talker) -> Turn:
    """A request to repeat a word: the shortest form of copying."""
    word = words.name(talker.rng, talker.held_out)
    word = word if talker.rng.random() < 0.5 else word.lower()
    return Turn(f"please say {word}.", f"I say {word}.", "echo")


def aside(talker: Talker) -> Turn:
    """Something outside the model's world, which it should admit."""
    rng = talker.rng
    if rng.random() < 0.4:
        return Turn(words.scraps(rng), "I do not understand.", "aside")
    text = rng.choice(words.ASIDES).format(verb=rng.choice(words.VERBS), noun=rng.choice(words.NOUNS))
    return Turn(text, "I do not know that.", "aside")


def _facts() -> tuple[list[tuple[str, str]], ...]:
    after = [(f"what day comes after {a}?", f"{b} comes after {a}.")
             for a, b in zip(words.DAYS, words.DAYS[1:] + words.DAYS[:1], strict=True)]  # fmt: skip
    month = [(f"what month comes after {a}?", f"{b} comes after {a}.")
             for a, b in zip(words.MONTHS, words.MONTHS[1:] + words.MONTHS[:1], strict=True)]  # fmt: skip
    capital = [(f"what is the capital of {a}?", f"The capital of {a} is {b}.") for a, b in words.CAPITALS.items()]
    return (
        capital, capital,
        [(f"what colour is {a}?", f"{a[0].upper()}{a[1:]} is {b}.") for a, b in words.THINGS.items()],
        [(f"what does a {a} say?", f"A {a} says {b}.") for a, b in words.SOUNDS.items()],
        [(f"what is the opposite of {a}?", f"The opposite of {a} is {b}.") for a, b in words.OPPOSITES.items()],
        [(f"how many legs does a {a} have?", f"A {a} has {n} legs.") for a, n in words.LEGS.items()],
        after, month,
    )  # fmt: skip


FACTS = _facts()
MAKERS = {
    "tell": tell, "tells": tells, "recall": recall, "untold": untold, "change": change, "sum": small_sum, "fact": fact,
    "talk": talk, "echo": echo, "aside": aside, "line": line, "lines": lines, "code": code, "unseen": unseen,
    "roll": roll, "roll_lines": roll_lines,
}  # fmt: skip


def conversation(rng: random.Random, reach: int = 8, held_out: bool = False, noise: float = 1.0) -> Iterator[Turn]:
    """Turns without end. `held_out` draws names never trained on; `noise` 0 writes every sentence in full."""
    talker = Talker(rng, reach, held_out, noise)
    while True:
        yield talker.next()
