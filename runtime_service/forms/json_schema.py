"""Reads a JSON schema, and refuses what would take llguidance long: it bounds most of its work, but not all."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from runtime_service.domain.response_format import refused

MOST_PROPERTIES = 1000
"""Of all objects together."""
MOST_MULTIPLE = 20_000
"""Least common multiple of every `multipleOf`, without powers of ten: a machine of so many states is made."""
MOST_DEPTH = 128
_SHOWN = 40  # characters of a number
_EXACT = 1 << 53
_FORM = "json_schema"


def read_schema(text: str) -> dict[str, Any]:
    """The schema; raises InvalidArgument (INVALID_FIELD) for what is no JSON, no schema, or too large."""
    try:
        schema = json.loads(text, parse_float=_number, parse_int=_integer, parse_constant=_no_number)
        json.dumps(schema, ensure_ascii=False).encode()  # half a character is none
    except RecursionError:
        raise refused(_FORM, f"is deeper than {MOST_DEPTH} levels") from None
    except UnicodeEncodeError:
        raise refused(_FORM, r"has half a character, such as \ud800 alone") from None
    except ValueError as error:
        raise refused(_FORM, f"is no JSON: {error}") from None
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise refused(_FORM, f"has to be an object, as a JSON schema is; it is {text[:40]}")
    check_schema(schema)
    return schema


def check_schema(schema: Mapping[str, Any], form: str = _FORM) -> None:
    """Raise InvalidArgument (INVALID_FIELD) for what would take too long to make a form of; `form` asked for it."""
    properties, multiple = 0, 1
    for node in _nodes(schema, 0, form):
        found = node.get("properties")
        properties += len(found) if isinstance(found, dict) else 0
        multiple = math.lcm(multiple, _steps(node.get("multipleOf")))
        if properties > MOST_PROPERTIES:
            raise refused(form, f"has more than {MOST_PROPERTIES} properties")
        if multiple > MOST_MULTIPLE:
            what = f"has values of multipleOf that have {multiple} as their least common multiple"
            raise refused(form, f"{what}; at most {MOST_MULTIPLE} is allowed, powers of ten aside")


def _nodes(value: object, depth: int, form: str) -> Iterator[Mapping[str, Any]]:
    """Every object in a value."""
    if depth > MOST_DEPTH:
        raise refused(form, f"is deeper than {MOST_DEPTH} levels")
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from _nodes(each, depth + 1, form)
    elif isinstance(value, list):
        for each in value:
            yield from _nodes(each, depth + 1, form)


def _steps(value: object) -> int:
    """Digits of a `multipleOf` without powers of ten; 1 for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value:
        return 1
    digits = str(Decimal(str(value)).normalize().as_tuple().digits)
    return int("".join(digit for digit in digits if digit.isdigit()))


def _number(text: str) -> float:
    """Whole numbers become such: a `maxLength` of 2.0 is one of 2."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:_SHOWN]} is too large a number")
    return int(value) if value.is_integer() and abs(value) < _EXACT else value


def _integer(text: str) -> int:
    _number(text)  # Python's own error speaks of itself
    return int(text)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
