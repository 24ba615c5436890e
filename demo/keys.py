"""What a person may tell about themselves, with the sentences that tell it, ask for it and answer.

One `Key` is one remembered thing ("my cat's name"); `KEYS` is all of them. The answer to a question is always the
same sentence with the told value in it, so a machine can check it.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from demo import words

UNTOLD = "something you have not told me"
Draw = Callable[[random.Random, bool], str]


@dataclass(frozen=True)
class Key:
    """One thing to remember: how it is told, changed, acknowledged, asked and answered (`{v}` is the value).

    `untold` answers a question about something that was not told: it parts from `answer` only where the value stands.
    """

    noun: str
    draw: Draw
    tell: tuple[str, ...]
    change: tuple[str, ...]
    known: str
    ask: tuple[str, ...]
    answer: str
    untold: str


def _one_of(options: list[str]) -> Draw:
    return lambda rng, _held_out: rng.choice(options)


def _number(low: int, high: int) -> Draw:
    return lambda rng, _held_out: str(rng.randint(low, high))


def _city(rng: random.Random, held_out: bool) -> str:
    return rng.choice(words.REAL_CITIES) if not held_out and rng.random() < 0.5 else words.name(rng, held_out)


def _called(noun: str) -> Key:
    tell = (f"my {noun} is called {{v}}.", f"my {noun} is called {{v}}.", f"I have a {noun} called {{v}}.",
            f"my {noun}'s name is {{v}}.", f"the name of my {noun} is {{v}}.")  # fmt: skip
    change = (f"actually my {noun} is called {{v}}.", f"no, my {noun} is called {{v}}.",
              f"my {noun} is now called {{v}}.")  # fmt: skip
    ask = (f"what is my {noun} called?", f"what is my {noun} called?", f"what is my {noun}'s name?",
           f"what is the name of my {noun}?", f"do you remember the name of my {noun}?")  # fmt: skip
    return Key(noun, words.name, tell, change, "I like the name {v}.", ask, f"Your {noun} is called {{v}}.",
               f"Your {noun} is called {UNTOLD}.")  # fmt: skip


def _property(noun: str, draw: Draw, known: str) -> Key:
    tell = (f"my {noun} is {{v}}.", f"my {noun} is {{v}}.", f"remember that my {noun} is {{v}}.")
    change = (f"actually my {noun} is {{v}}.", f"no, my {noun} is {{v}}.", f"my {noun} is now {{v}}.")
    ask = (f"what is my {noun}?", f"what is my {noun}?", f"do you remember my {noun}?", f"tell me my {noun}.")
    return Key(noun, draw, tell, change, known, ask, f"Your {noun} is {{v}}.", f"Your {noun} is {UNTOLD}.")


_LIKE = "I like {v} too."
_KEEP = "I will remember {v}."
_NAMED = "cat dog horse rabbit parrot hamster pony friend sister brother teacher neighbour mother father boss boat"

KEYS: tuple[Key, ...] = (
    *(_called(noun) for noun in _NAMED.split()),
    _property("name", words.name, "Nice to meet you, {v}."),
    _property("favourite colour", _one_of(words.COLOURS), _LIKE),
    _property("favourite food", _one_of(words.FOODS), _LIKE),
    _property("favourite animal", _one_of(words.ANIMALS), _LIKE),
    _property("favourite fruit", _one_of(words.FRUITS), _LIKE),
    _property("favourite game", _one_of(words.GAMES), _LIKE),
    _property("lucky number", _number(1, 99), _KEEP),
    _property("door code", _number(10, 99), _KEEP),
    _property("room number", _number(1, 99), _KEEP),
    _property("secret word", words.name, _KEEP),
    Key("city", _city, ("I live in {v}.", "my city is {v}."), ("I moved to {v}.", "actually I live in {v}."),
        "I hear {v} is nice.", ("where do I live?", "what is my city?", "which city do I live in?"),
        "You live in {v}.", "You live in a place you have not told me."),
    Key("age", _number(5, 99), ("I am {v} years old.",), ("actually I am {v} years old.",), _KEEP,
        ("how old am I?", "what is my age?"), "You are {v} years old.", "You are of an age you have not told me."),
)  # fmt: skip
