"""A text of one line in a spec, such as where something is, or its name."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from common.controls import is_name


def _check_controls(value: str) -> str:
    """Names and places have none, and neither a file system nor a database takes NUL."""
    if not is_name(value):
        raise PydanticCustomError("controls", "input should have no control characters")
    return value


OneLine = Annotated[str, AfterValidator(_check_controls)]
