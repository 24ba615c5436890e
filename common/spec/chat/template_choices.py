"""What a chat template gets by name: one value for all sessions, or choices, of which every session takes one.

A spec declares choices as a list, the first of which is the default. An engine has parts of its own for each
combination.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Annotated

from pydantic import BeforeValidator, StrictBool, StrictFloat, StrictInt, StrictStr
from pydantic_core import PydanticCustomError

from common.controls import harmless

Value = bool | int | float | str
Variables = Mapping[str, Value | tuple[Value, ...]]
MOST_COMBINATIONS = 16
"""Each is proven at the build, which takes a second, and has its parts in the manifest."""


class NotAChoice(Exception):
    """A variable or a value that was not declared; the text says which, and what was."""


def combinations(variables: Variables) -> Iterator[dict[str, Value]]:
    """Every way to give each variable one value; the defaults first."""
    values = [value if isinstance(value, tuple) else (value,) for value in variables.values()]
    return (dict(zip(variables, chosen, strict=True)) for chosen in itertools.product(*values))


def choose(variables: Variables, asked: Mapping[str, Value]) -> dict[str, Value]:
    """The value of every variable that has choices: the one that was `asked` for, else the default.

    A variable with one value may be asked for that one. Raises NotAChoice.
    """
    for name, value in asked.items():
        _check(variables, name, value)
    return {
        name: _find(value, asked[name]) if name in asked else value[0]
        for name, value in variables.items()
        if isinstance(value, tuple)
    }


def same(one: Value, other: Value) -> bool:
    """Whether two values are the same to a template: true is not 1, and 1 is 1.0."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def shown(value: Value) -> str:
    """A value as a spec writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check(variables: Variables, name: str, value: Value) -> None:
    if name not in variables:
        known = ", ".join(variables) or "none"
        raise NotAChoice(f"{name[:100]!r} is no variable that the engine's spec declares; those are: {known}")
    declared = variables[name]
    choices = declared if isinstance(declared, tuple) else (declared,)
    if not any(same(value, choice) for choice in choices):
        known = " or ".join(map(shown, choices))
        raise NotAChoice(f"{name} is {shown(value)[:100]!r}; the engine's spec declares {known}")


def _find(choices: Sequence[Value], asked: Value) -> Value:
    return next(choice for choice in choices if same(choice, asked))


def _check_value(value: object) -> object:
    """One error instead of one for each kind that it could be."""
    if isinstance(value, list | tuple):
        if len(value) > 1 and all(map(_is_scalar, value)) and _differ(value):
            return tuple(value)
        message = "choices should be two or more different texts without control characters, numbers, or true and false"
        raise PydanticCustomError("template_choices", message)
    if _is_scalar(value):
        return value
    if isinstance(value, str):
        raise PydanticCustomError("controls", "input should have no control characters but line ends and tabs")
    message = "input should be a text, a number, true or false, or a list of such choices"
    raise PydanticCustomError("template_value", message)


def _is_scalar(value: object) -> bool:
    if isinstance(value, str):
        return value == harmless(value)
    return isinstance(value, int) or (isinstance(value, float) and isfinite(value))


def _differ(values: Sequence[Value]) -> bool:
    return not any(same(one, other) for one, other in itertools.combinations(values, 2))


_Scalar = StrictBool | StrictInt | StrictFloat | StrictStr
TemplateValue = Annotated[_Scalar | tuple[_Scalar, ...], BeforeValidator(_check_value)]
"""A field of a spec: a value, or choices."""
