"""What is said to measure recall: things told about oneself, and chat that has nothing to do with them, or seems to.

Sentences are those of the demo model's world, and plain enough for any other.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Exchange:
    """What a user says, and the reply that is put into the history, whatever a model would have said."""

    user: str
    assistant: str


@dataclass(frozen=True)
class Thing:
    """Something to tell: told, changed, acknowledged and asked for, with {value}."""

    name: str
    tell: str
    change: str
    known: str
    ask: str
    kind_of_value: str = "name"

    def told(self, value: str, *, changed: bool = False) -> Exchange:
        """It is told, or told otherwise than before."""
        sentence = self.change if changed else self.tell
        return Exchange(sentence.format(value=value), self.known.format(value=value))


def _called(noun: str) -> Thing:
    return Thing(
        noun,
        f"my {noun} is called {{value}}.",
        f"actually my {noun} is called {{value}}.",
        "I like the name {value}.",
        f"what is my {noun} called?",
    )


def _is(noun: str, known: str, kind: str) -> Thing:
    tell, change = f"my {noun} is {{value}}.", f"actually my {noun} is {{value}}."
    return Thing(noun, tell, change, known, f"what is my {noun}?", kind)


_NOUNS = "cat dog horse rabbit parrot hamster pony friend sister brother teacher neighbour mother father boss boat"
THINGS = (
    *(_called(noun) for noun in _NOUNS.split()),
    _is("secret word", "I will remember {value}.", "name"),
    _is("lucky number", "I will remember {value}.", "number"),
    _is("door code", "I will remember {value}.", "number"),
    _is("room number", "I will remember {value}.", "number"),
)

_SOUNDS = {"cat": "meow", "dog": "woof", "cow": "moo", "duck": "quack", "sheep": "baa"}
_LEGS = {"cat": 4, "dog": 4, "horse": 4, "bee": 6, "spider": 8, "bird": 2}
_OPPOSITES = {"hot": "cold", "big": "small", "up": "down", "day": "night", "old": "new", "fast": "slow"}
_CAPITALS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Norway": "Oslo", "Japan": "Tokyo"}
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


def value(draw: random.Random, kind: str, taken: set[str]) -> str:
    """A value that is not `taken`, and is from now on."""
    make = _number if kind == "number" else _name
    found = next(made for made in iter(lambda: make(draw), "") if made not in taken)
    taken.add(found)
    return found


def _number(draw: random.Random) -> str:
    return str(draw.randint(10, 99))


def _name(draw: random.Random) -> str:
    syllables = [draw.choice(_CONSONANTS) + draw.choice(_VOWELS) for _ in range(2)]
    ending: str = draw.choice(("", *"nlrs"))
    return "".join(syllables).capitalize() + ending


def chat(draw: random.Random) -> Exchange:
    """Something that has nothing to do with what was told; it may use some of its words."""
    match draw.randrange(5):
        case 0:
            animal, sound = draw.choice(list(_SOUNDS.items()))
            return Exchange(f"what does a {animal} say?", f"A {animal} says {sound}.")
        case 1:
            animal, legs = draw.choice(list(_LEGS.items()))
            return Exchange(f"how many legs does a {animal} have?", f"A {animal} has {legs} legs.")
        case 2:
            one, other = draw.choice(list(_OPPOSITES.items()))
            return Exchange(f"what is the opposite of {one}?", f"The opposite of {one} is {other}.")
        case 3:
            land, capital = draw.choice(list(_CAPITALS.items()))
            return Exchange(f"what is the capital of {land}?", f"The capital of {land} is {capital}.")
        case _:
            a, b = draw.randint(0, 10), draw.randint(0, 10)
            return Exchange(f"what is {a} + {b}?", f"{a} + {b} is {a + b}.")


def distractors(words: str) -> Iterator[Exchange]:
    """Later chat with words of a question in it, and no answer."""
    yield Exchange(f"please say {words}.", f"I say {words}.")
    yield Exchange(f"I like {words}.", "I am glad to hear that.")
    yield Exchange(f"how do you spell {words}?", "I do not know that.")
